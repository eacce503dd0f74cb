-- Holds the checkpoint until the transaction ends: no batch is applied meanwhile,
-- and whoever comes next knows by the turn that the tables were written.
UPDATE projection_checkpoint
SET turn = turn + 1
WHERE projection = $1 AND partitions = $2
RETURNING position, turn - 1
