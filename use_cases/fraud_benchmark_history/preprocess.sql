-- The 15 inputs of fraud_benchmark, arithmetic of them, and more of what is known of the card and the terminal by then.
SELECT
  customer_id,
  event_time,
  amount,
  CASE WHEN extract(isodow FROM event_time) >= 6 THEN 1 ELSE 0 END AS weekend,
  CASE WHEN extract(hour FROM event_time) <= 6 THEN 1 ELSE 0 END AS night,
  customer_count_1d,
  customer_mean_1d,
  customer_count_7d,
  customer_mean_7d,
  customer_count_30d,
  customer_mean_30d,
  terminal_count_1d,
  COALESCE(terminal_frauds_1d / NULLIF(terminal_count_1d, 0), 0) AS terminal_risk_1d,
  terminal_count_7d,
  COALESCE(terminal_frauds_7d / NULLIF(terminal_count_7d, 0), 0) AS terminal_risk_7d,
  terminal_count_30d,
  COALESCE(terminal_frauds_30d / NULLIF(terminal_count_30d, 0), 0) AS terminal_risk_30d,
  -- Arithmetic of these: the payment, and the card's others of a day and a week, beside what it paid before that.
  amount / greatest(COALESCE(others_30d, amount), 1) AS amount_to_others_30d,
  amount / usual AS amount_to_usual,
  COALESCE(others_1d / usual, 1) AS others_1d_to_usual,
  COALESCE(others_7d / usual, 1) AS others_7d_to_usual,
  (customer_mean_7d * customer_count_7d - amount) / usual AS others_7d_sum_to_usual,
  customer_mean_1d / greatest(customer_mean_30d, 1) AS customer_mean_1d_to_30d,
  customer_mean_7d / greatest(customer_mean_30d, 1) AS customer_mean_7d_to_30d,
  customer_count_1d / customer_count_30d AS customer_count_1d_to_30d,
  customer_count_7d / customer_count_30d AS customer_count_7d_to_30d,
  -- Frauds of the terminal in numbers, and their share as if ten payments more had shown the usual 0.85 %.
  terminal_frauds_1d,
  terminal_frauds_7d,
  terminal_frauds_30d,
  terminal_frauds_30d - terminal_frauds_7d AS terminal_frauds_before_7d,
  terminal_count_30d - terminal_count_7d AS terminal_count_before_7d,
  (terminal_frauds_1d + 0.085) / (terminal_count_1d + 10) AS terminal_share_1d,
  (terminal_frauds_7d + 0.085) / (terminal_count_7d + 10) AS terminal_share_7d,
  (terminal_frauds_30d + 0.085) / (terminal_count_30d + 10) AS terminal_share_30d,
  (terminal_frauds_30d - terminal_frauds_7d + 0.085) / (terminal_count_30d - terminal_count_7d + 10)
    AS terminal_share_before_7d,
  (terminal_frauds_7d - terminal_frauds_1d + 0.085) / (terminal_count_7d - terminal_count_1d + 10)
    AS terminal_share_before_1d,
  -- The card: the payment beside the median of 90 days, and how strange its payments have been of late.
  amount_to_median,
  amount_to_median_max_14d,
  large_3d,
  large_14d,
  max_7d_to_median,
  -- The terminal, week by week of delay, and how a time of frauds began and ended.
  terminal_frauds_week_2,
  terminal_frauds_week_3,
  terminal_frauds_week_4,
  terminal_count_week_2,
  terminal_count_week_3,
  terminal_count_week_4,
  COALESCE(epoch(event_time - first_fraud) / 86400, 99) AS terminal_first_fraud_days,
  COALESCE(epoch(event_time - last_fraud) / 86400, 99) AS terminal_last_fraud_days,
  COALESCE(epoch(event_time - last_genuine) / 86400, 99) AS terminal_last_genuine_days,
  terminal_last_was_fraud
FROM (
  SELECT *,
    (customer_mean_30d * customer_count_30d - amount) / NULLIF(customer_count_30d - 1, 0) AS others_30d,
    (customer_mean_7d * customer_count_7d - amount) / NULLIF(customer_count_7d - 1, 0) AS others_7d,
    (customer_mean_1d * customer_count_1d - amount) / NULLIF(customer_count_1d - 1, 0) AS others_1d,
    greatest(
      CASE WHEN customer_count_30d - customer_count_7d > 2
        THEN (customer_mean_30d * customer_count_30d - customer_mean_7d * customer_count_7d)
          / NULLIF(customer_count_30d - customer_count_7d, 0)
        ELSE customer_mean_30d END, 1) AS usual
  FROM (
    SELECT *,
      max(amount_to_median) OVER customer_14d AS amount_to_median_max_14d,
      count_if(amount_to_median > 2.5) OVER customer_3d AS large_3d,
      count_if(amount_to_median > 2.5) OVER customer_14d AS large_14d,
      count(*) OVER terminal_1d AS terminal_count_1d,
      count(*) OVER terminal_7d AS terminal_count_7d,
      count(*) OVER terminal_30d AS terminal_count_30d,
      count(*) OVER terminal_week_2 AS terminal_count_week_2,
      count(*) OVER terminal_week_3 AS terminal_count_week_3,
      count(*) OVER terminal_week_4 AS terminal_count_week_4,
      COALESCE(count_if(scenario > 0) OVER terminal_1d, 0) AS terminal_frauds_1d,
      COALESCE(count_if(scenario > 0) OVER terminal_7d, 0) AS terminal_frauds_7d,
      COALESCE(count_if(scenario > 0) OVER terminal_30d, 0) AS terminal_frauds_30d,
      COALESCE(count_if(scenario > 0) OVER terminal_week_2, 0) AS terminal_frauds_week_2,
      COALESCE(count_if(scenario > 0) OVER terminal_week_3, 0) AS terminal_frauds_week_3,
      COALESCE(count_if(scenario > 0) OVER terminal_week_4, 0) AS terminal_frauds_week_4,
      -- A fraud of an ordinary amount is more likely the terminal's than the card's.
      min(CASE WHEN scenario > 0 AND amount_to_median < 2.5 THEN event_time END) OVER terminal_90d AS first_fraud,
      max(CASE WHEN scenario > 0 AND amount_to_median < 2.5 THEN event_time END) OVER terminal_90d AS last_fraud,
      max(CASE WHEN scenario = 0 THEN event_time END) OVER terminal_90d AS last_genuine,
      COALESCE(last_value(CASE WHEN scenario > 0 THEN 1 ELSE 0 END) OVER terminal_90d, 0) AS terminal_last_was_fraud
    FROM (
      SELECT *,
        count(*) OVER customer_1d AS customer_count_1d,
        avg(amount) OVER customer_1d AS customer_mean_1d,
        count(*) OVER customer_7d AS customer_count_7d,
        avg(amount) OVER customer_7d AS customer_mean_7d,
        count(*) OVER customer_30d AS customer_count_30d,
        avg(amount) OVER customer_30d AS customer_mean_30d,
        amount / greatest(median(amount) OVER customer_90d, 1) AS amount_to_median,
        max(amount) OVER customer_7d / greatest(median(amount) OVER customer_90d, 1) AS max_7d_to_median
      FROM events
      WINDOW
        customer_1d AS (PARTITION BY customer_id ORDER BY event_time
                        RANGE BETWEEN INTERVAL '1' DAY PRECEDING AND CURRENT ROW),
        customer_7d AS (PARTITION BY customer_id ORDER BY event_time
                        RANGE BETWEEN INTERVAL '7' DAY PRECEDING AND CURRENT ROW),
        customer_30d AS (PARTITION BY customer_id ORDER BY event_time
                         RANGE BETWEEN INTERVAL '30' DAY PRECEDING AND CURRENT ROW),
        customer_90d AS (PARTITION BY customer_id ORDER BY event_time
                         RANGE BETWEEN INTERVAL '90' DAY PRECEDING AND CURRENT ROW)
    )
    WINDOW
      customer_3d AS (PARTITION BY customer_id ORDER BY event_time
                      RANGE BETWEEN INTERVAL '3' DAY PRECEDING AND CURRENT ROW),
      customer_14d AS (PARTITION BY customer_id ORDER BY event_time
                       RANGE BETWEEN INTERVAL '14' DAY PRECEDING AND CURRENT ROW),
      terminal_1d AS (PARTITION BY terminal_id ORDER BY event_time
                      RANGE BETWEEN INTERVAL '8' DAY PRECEDING AND INTERVAL '7' DAY PRECEDING),
      terminal_7d AS (PARTITION BY terminal_id ORDER BY event_time
                      RANGE BETWEEN INTERVAL '14' DAY PRECEDING AND INTERVAL '7' DAY PRECEDING),
      terminal_30d AS (PARTITION BY terminal_id ORDER BY event_time
                       RANGE BETWEEN INTERVAL '37' DAY PRECEDING AND INTERVAL '7' DAY PRECEDING),
      terminal_week_2 AS (PARTITION BY terminal_id ORDER BY event_time
                          RANGE BETWEEN INTERVAL '21' DAY PRECEDING AND INTERVAL '14' DAY PRECEDING),
      terminal_week_3 AS (PARTITION BY terminal_id ORDER BY event_time
                          RANGE BETWEEN INTERVAL '28' DAY PRECEDING AND INTERVAL '21' DAY PRECEDING),
      terminal_week_4 AS (PARTITION BY terminal_id ORDER BY event_time
                          RANGE BETWEEN INTERVAL '35' DAY PRECEDING AND INTERVAL '28' DAY PRECEDING),
      terminal_90d AS (PARTITION BY terminal_id ORDER BY event_time
                       RANGE BETWEEN INTERVAL '97' DAY PRECEDING AND INTERVAL '7' DAY PRECEDING)
  )
)
