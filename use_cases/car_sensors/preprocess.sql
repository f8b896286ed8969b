-- What the model sees, and which events it sees at all. Read by training, scoring and replay alike.
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
  -- A sound engine vibrates in proportion to the speed; a failing drive shaft shows at any speed.
  engine_vibration_amplitude / (speed + 1) AS vibration_per_speed
FROM events
-- Control units that report no battery voltage send defaults for the other readings too.
WHERE battery_voltage > 0
