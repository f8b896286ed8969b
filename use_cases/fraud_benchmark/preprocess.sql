-- The 15 inputs of the public fraud benchmark: the payment, how the customer pays, and how often its terminal was in frauds.
-- Labels take 7 days, so a terminal's frames end 7 days before the payment.
SELECT
  customer_id,
  event_time,
  amount,
  CASE WHEN extract(isodow FROM event_time) >= 6 THEN 1 ELSE 0 END AS weekend,
  CASE WHEN extract(hour FROM event_time) <= 6 THEN 1 ELSE 0 END AS night,
  count(*) OVER customer_1d AS customer_count_1d,
  avg(amount) OVER customer_1d AS customer_mean_1d,
  count(*) OVER customer_7d AS customer_count_7d,
  avg(amount) OVER customer_7d AS customer_mean_7d,
  count(*) OVER customer_30d AS customer_count_30d,
  avg(amount) OVER customer_30d AS customer_mean_30d,
  count(*) OVER terminal_1d AS terminal_count_1d,
  COALESCE(count_if(scenario > 0) OVER terminal_1d / NULLIF(count(*) OVER terminal_1d, 0), 0) AS terminal_risk_1d,
  count(*) OVER terminal_7d AS terminal_count_7d,
  COALESCE(count_if(scenario > 0) OVER terminal_7d / NULLIF(count(*) OVER terminal_7d, 0), 0) AS terminal_risk_7d,
  count(*) OVER terminal_30d AS terminal_count_30d,
  COALESCE(count_if(scenario > 0) OVER terminal_30d / NULLIF(count(*) OVER terminal_30d, 0), 0) AS terminal_risk_30d
FROM events
WINDOW
  customer_1d AS (PARTITION BY customer_id ORDER BY event_time
                  RANGE BETWEEN INTERVAL '1' DAY PRECEDING AND CURRENT ROW),
  customer_7d AS (PARTITION BY customer_id ORDER BY event_time
                  RANGE BETWEEN INTERVAL '7' DAY PRECEDING AND CURRENT ROW),
  customer_30d AS (PARTITION BY customer_id ORDER BY event_time
                   RANGE BETWEEN INTERVAL '30' DAY PRECEDING AND CURRENT ROW),
  terminal_1d AS (PARTITION BY terminal_id ORDER BY event_time
                  RANGE BETWEEN INTERVAL '8' DAY PRECEDING AND INTERVAL '7' DAY PRECEDING),
  terminal_7d AS (PARTITION BY terminal_id ORDER BY event_time
                  RANGE BETWEEN INTERVAL '14' DAY PRECEDING AND INTERVAL '7' DAY PRECEDING),
  terminal_30d AS (PARTITION BY terminal_id ORDER BY event_time
                   RANGE BETWEEN INTERVAL '37' DAY PRECEDING AND INTERVAL '7' DAY PRECEDING)
