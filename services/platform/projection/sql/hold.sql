-- Holds the checkpoint until the transaction ends: no batch is applied meanwhile.
SELECT position FROM projection_checkpoint
WHERE projection = $1 AND partitions = $2
FOR UPDATE
