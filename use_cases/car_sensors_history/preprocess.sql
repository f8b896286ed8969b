-- car_sensors with memory: each reading, and how the car differs from what it was like in the hour before.
SELECT
  car_id,
  event_time,
  coolant_temp,
  intake_air_temp,
  intake_air_flow_speed,
  battery_percentage,
  battery_voltage,
  current_draw,
  speed,
  engine_vibration_amplitude,
  throttle_pos,
  tire_pressure_1_1,
  tire_pressure_1_2,
  tire_pressure_2_1,
  tire_pressure_2_2,
  accelerometer_1_1_value,
  accelerometer_1_2_value,
  accelerometer_2_1_value,
  accelerometer_2_2_value,
  control_unit_firmware,
  engine_vibration_amplitude / (speed + 1) AS vibration_per_speed,
  -- Means of ten minutes show what the noise of one reading hides; each car is compared with itself.
  COALESCE(avg(coolant_temp) OVER recent - avg(coolant_temp) OVER before, 0) AS coolant_change,
  -- The battery's data sheet says 0.52 V a percent of charge.
  COALESCE(avg(battery_voltage - 0.52 * battery_percentage) OVER recent
    - avg(battery_voltage - 0.52 * battery_percentage) OVER before, 0) AS voltage_change,
  COALESCE(avg(tire_pressure_1_1) OVER recent - avg(tire_pressure_1_1) OVER before, 0) AS tire_change_1_1,
  COALESCE(avg(tire_pressure_1_2) OVER recent - avg(tire_pressure_1_2) OVER before, 0) AS tire_change_1_2,
  COALESCE(avg(tire_pressure_2_1) OVER recent - avg(tire_pressure_2_1) OVER before, 0) AS tire_change_2_1,
  COALESCE(avg(tire_pressure_2_2) OVER recent - avg(tire_pressure_2_2) OVER before, 0) AS tire_change_2_2,
  COALESCE(sum(engine_vibration_amplitude) OVER recent / NULLIF(sum(speed) OVER recent, 0), 100) AS vibration_recent,
  -- A bump jolts a wheel once, a worn shock absorber at every reading.
  min(accelerometer_1_1_value) OVER minute AS jolt_least_1_1,
  min(accelerometer_1_2_value) OVER minute AS jolt_least_1_2,
  min(accelerometer_2_1_value) OVER minute AS jolt_least_2_1,
  min(accelerometer_2_2_value) OVER minute AS jolt_least_2_2,
  -- No reading is quite like another, unless the sensor is stuck.
  count(DISTINCT coolant_temp) OVER recent / count(*) OVER recent AS coolant_distinct
FROM events
WHERE battery_voltage > 0
WINDOW
  minute AS (PARTITION BY car_id ORDER BY event_time
             RANGE BETWEEN INTERVAL '1' MINUTE PRECEDING AND CURRENT ROW),
  recent AS (PARTITION BY car_id ORDER BY event_time
             RANGE BETWEEN INTERVAL '10' MINUTE PRECEDING AND CURRENT ROW),
  before AS (PARTITION BY car_id ORDER BY event_time
             RANGE BETWEEN INTERVAL '70' MINUTE PRECEDING AND INTERVAL '10' MINUTE PRECEDING)
