\set n :n + 1
\set minus 0 - :n
\set device random(1, 20)
\set other random(1, 20)
\set value random(0, 1000)
\set what random(1, 10)
\set old :n - random(1, 10)
\if :what <= 3
BEGIN;
INSERT INTO reading (client, n, device, value) VALUES (:client_id, :n, :device, :value);
INSERT INTO total AS t (device, readings, value) VALUES (:device, 1, :value)
    ON CONFLICT (device) DO UPDATE SET readings = t.readings + 1, value = t.value + EXCLUDED.value;
COMMIT;
\elif :what = 4
INSERT INTO reading (client, n, device, value) VALUES (:client_id, :n, :device, :value), (:client_id, :minus, :other, 0);
\elif :what = 5
UPDATE device SET uses = uses + 1 WHERE id = :device;
\elif :what = 6
BEGIN;
INSERT INTO met (client, device) VALUES (:client_id, :device), (:client_id, :other) ON CONFLICT DO NOTHING;
SAVEPOINT before;
UPDATE reading SET value = value + 100000 WHERE client = :client_id;
ROLLBACK TO before;
INSERT INTO alarm (client, n, text)
    SELECT client, n, 'high: ' || value FROM reading WHERE client = :client_id AND n = :old ON CONFLICT DO NOTHING;
COMMIT;
\elif :what = 7
DELETE FROM reading WHERE client = :client_id AND n = :old AND n % 2 = 0;
\elif :what = 8
UPDATE reading r SET kept = false, value = r.value + d.id FROM device d WHERE d.id = r.device AND r.client = :client_id AND r.n = :old;
\elif :what = 9
SELECT d.id, d.name, d.uses, count(r.n), sum(r.value), max(t.readings)
  FROM device d LEFT JOIN reading r ON r.device = d.id LEFT JOIN total t ON t.device = d.id
 WHERE d.id IN (:device, :other) GROUP BY d.id ORDER BY d.id;
\else
SELECT client, count(*) FILTER (WHERE kept), avg(value), rank() OVER (ORDER BY count(*) DESC, client)
  FROM reading WHERE client = :client_id OR device = :device GROUP BY client ORDER BY 4 LIMIT 5;
\endif
