-- Holds checkpoints until the transaction ends: no batch is applied meanwhile, and whoever
-- comes next knows by the turn that the tables were written.
WITH those AS (
    SELECT partitions FROM projection_checkpoint
    WHERE projection = $1 AND stream = $2 AND ($3::text IS NULL OR partitions = $3)
    ORDER BY partitions FOR UPDATE
)
UPDATE projection_checkpoint AS c
SET turn = c.turn + 1
FROM those WHERE c.projection = $1 AND c.partitions = those.partitions
RETURNING c.partitions, c.position, c.turn - 1
