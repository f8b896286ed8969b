-- How a card is used now against how it was used before, and what is known of the merchant.
-- A card has about two payments a day, so its windows hold each of them; a merchant has many, so its long ones are in
-- hop form. Labels take up to 7 days, so what tells of known frauds ends 7 days before the payment.
SELECT
  pseudonymize(card) AS card,
  event_time,
  payment_id,
  merchant,
  category,
  channel,
  country,
  euros,
  CASE WHEN extract(hour FROM event_time) < 6 THEN 1 ELSE 0 END AS night,
  CASE WHEN channel = 'in_car' THEN 0 ELSE 1 END AS remote,
  count_1m, count_10m, count_1h, count_1d, count_7d, count_30d,
  euros_1m, euros_10m, euros_1h, euros_1d, euros_7d, euros_30d,
  against_usual,
  deviations,
  against_least_3h,
  repeats_3h,
  seconds_since,
  km_since,
  -- As of a quarter of an hour at least: positions are rounded, and a town has many merchants.
  km_since / (greatest(seconds_since, 900) / 3600) AS kmh,
  merchants_1d,
  new_merchant,
  new_device,
  new_merchants_1d,
  new_devices_1d,
  again_larger_3h,
  -- The merchant, with all cards.
  count(*) OVER merchant_1h AS merchant_count_1h,
  count(DISTINCT pseudonymize(card)) OVER merchant_1h AS merchant_cards_1h,
  count(*) OVER merchant_1d / count(DISTINCT pseudonymize(card)) OVER merchant_1d AS merchant_repeats_1d,
  avg(new_merchant) OVER merchant_1d AS merchant_new_cards_1d,
  -- A card that is charged again, and more, by whom it has just paid: how many others did he charge so?
  sum(again_larger_3h) OVER merchant_2d AS merchant_again_larger_2d,
  avg(again_larger_3h) OVER merchant_2d AS merchant_share_again_larger_2d,
  CASE WHEN again_larger_3h = 1 THEN sum(again_larger_3h) OVER merchant_2d ELSE 0 END AS charged_again_2d,
  COALESCE(euros / NULLIF(avg(euros) OVER merchant_30d, 0), 1) AS against_merchant,
  COALESCE(avg(euros) OVER merchant_1d / NULLIF(avg(euros) OVER merchant_30d, 0), 1) AS merchant_level_1d,
  avg(least(against_usual, 20)) OVER merchant_1d AS merchant_against_usual_1d,
  COALESCE(count_if(fraud <> 'none') OVER merchant_known, 0) AS merchant_frauds_30d,
  COALESCE(count_if(fraud <> 'none') OVER merchant_known / NULLIF(count(fraud) OVER merchant_known, 0), 0)
    AS merchant_risk_30d
FROM (
  SELECT
    *,
    count(*) OVER last_1m AS count_1m,
    count(*) OVER last_10m AS count_10m,
    count(*) OVER last_1h AS count_1h,
    count(*) OVER last_1d AS count_1d,
    count(*) OVER last_7d AS count_7d,
    count(*) OVER last_30d AS count_30d,
    sum(euros) OVER last_1m AS euros_1m,
    sum(euros) OVER last_10m AS euros_10m,
    sum(euros) OVER last_1h AS euros_1h,
    sum(euros) OVER last_1d AS euros_1d,
    sum(euros) OVER last_7d AS euros_7d,
    sum(euros) OVER last_30d AS euros_30d,
    COALESCE(euros / NULLIF(avg(euros) OVER before_30d, 0), 1) AS against_usual,
    COALESCE((euros - avg(euros) OVER before_30d) / NULLIF(stddev_samp(euros) OVER before_30d, 0), 0) AS deviations,
    COALESCE(euros / NULLIF(min(euros) OVER before_3h, 0), 1) AS against_least_3h,
    count(*) OVER last_3h - count(DISTINCT merchant) OVER last_3h AS repeats_3h,
    CASE WHEN count(DISTINCT merchant) OVER last_3h = count(DISTINCT merchant) OVER before_3h
      AND euros >= 2 * min(euros) OVER before_3h THEN 1 ELSE 0 END AS again_larger_3h,
    COALESCE(epoch(event_time - last_value(event_time) OVER before_30d), 2592000) AS seconds_since,
    -- Along the surface of the earth, from where the card was used last.
    2 * 6371 * asin(sqrt(least(1, COALESCE(
      sin(radians(north - last_value(north) OVER before_30d) / 2) ^ 2
      + cos(radians(north)) * cos(radians(last_value(north) OVER before_30d))
        * sin(radians(east - last_value(east) OVER before_30d) / 2) ^ 2, 0)))) AS km_since,
    count(DISTINCT merchant) OVER last_1d AS merchants_1d,
    CASE WHEN count(DISTINCT merchant) OVER last_30d > count(DISTINCT merchant) OVER before_30d THEN 1 ELSE 0 END
      AS new_merchant,
    CASE WHEN count(DISTINCT pseudonymize(device)) OVER last_30d
      > count(DISTINCT pseudonymize(device)) OVER before_30d THEN 1 ELSE 0 END AS new_device,
    count(DISTINCT merchant) OVER last_30d - count(DISTINCT merchant) OVER until_1d AS new_merchants_1d,
    count(DISTINCT pseudonymize(device)) OVER last_30d - count(DISTINCT pseudonymize(device)) OVER until_1d
      AS new_devices_1d
  FROM (
    SELECT
      *,
      amount * CASE currency
        WHEN 'EUR' THEN 1 WHEN 'GBP' THEN 1.15 WHEN 'CHF' THEN 1.05
        WHEN 'PLN' THEN 0.23 WHEN 'CZK' THEN 0.04 WHEN 'DKK' THEN 0.134
        END AS euros,
      generalize(latitude, 2) AS north,
      generalize(longitude, 2) AS east
    FROM events
  )
  WINDOW
    last_1m AS (PARTITION BY card ORDER BY event_time RANGE BETWEEN INTERVAL '1' MINUTE PRECEDING AND CURRENT ROW),
    last_10m AS (PARTITION BY card ORDER BY event_time RANGE BETWEEN INTERVAL '10' MINUTE PRECEDING AND CURRENT ROW),
    last_1h AS (PARTITION BY card ORDER BY event_time RANGE BETWEEN INTERVAL '1' HOUR PRECEDING AND CURRENT ROW),
    last_3h AS (PARTITION BY card ORDER BY event_time RANGE BETWEEN INTERVAL '3' HOUR PRECEDING AND CURRENT ROW),
    before_3h AS (PARTITION BY card ORDER BY event_time
                  RANGE BETWEEN INTERVAL '3' HOUR PRECEDING AND CURRENT ROW EXCLUDE CURRENT ROW),
    last_1d AS (PARTITION BY card ORDER BY event_time RANGE BETWEEN INTERVAL '1' DAY PRECEDING AND CURRENT ROW),
    last_7d AS (PARTITION BY card ORDER BY event_time RANGE BETWEEN INTERVAL '7' DAY PRECEDING AND CURRENT ROW),
    last_30d AS (PARTITION BY card ORDER BY event_time RANGE BETWEEN INTERVAL '30' DAY PRECEDING AND CURRENT ROW),
    before_30d AS (PARTITION BY card ORDER BY event_time
                   RANGE BETWEEN INTERVAL '30' DAY PRECEDING AND CURRENT ROW EXCLUDE CURRENT ROW),
    until_1d AS (PARTITION BY card ORDER BY event_time
                 RANGE BETWEEN INTERVAL '30' DAY PRECEDING AND INTERVAL '1' DAY PRECEDING)
)
WINDOW
  merchant_1h AS (PARTITION BY merchant ORDER BY event_time
                  RANGE BETWEEN INTERVAL '1' HOUR PRECEDING AND CURRENT ROW),
  merchant_1d AS (PARTITION BY merchant ORDER BY event_time
                  RANGE BETWEEN INTERVAL '1' DAY PRECEDING AND CURRENT ROW),
  merchant_2d AS (PARTITION BY merchant ORDER BY event_time
                  RANGE BETWEEN INTERVAL '2' DAY PRECEDING AND CURRENT ROW),
  merchant_30d AS (PARTITION BY merchant ORDER BY event_time
                   RANGE BETWEEN (event_time - time_bucket(INTERVAL '1 day', event_time - INTERVAL '30 day'))
                   PRECEDING AND CURRENT ROW EXCLUDE CURRENT ROW),
  merchant_known AS (PARTITION BY merchant ORDER BY event_time
                     RANGE BETWEEN INTERVAL '37' DAY PRECEDING AND INTERVAL '7' DAY PRECEDING)
