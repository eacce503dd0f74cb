-- +goose Up

-- What those see who see only what is their own (cetrus.own). A table that is not named here
-- they do not see at all: totals of the whole account, agents, what is set aside.
SELECT cetrus.own_of('instance');
SELECT cetrus.own_of('cell');
SELECT cetrus.own_of('document_cell');
SELECT cetrus.own_of('principal_machine');
SELECT cetrus.own_of('sealed_name');
SELECT cetrus.own_of('principal');
SELECT cetrus.own_of('correction');

-- What belongs to an instance is seen with it: the table instance is read under its own wall.
SELECT cetrus.own('interval', 'EXISTS (SELECT FROM instance AS n WHERE n.instance_id = interval.instance_id AND n.account_id = interval.account_id)');
SELECT cetrus.own('document', 'EXISTS (SELECT FROM instance AS n WHERE n.instance_id = document.instance_id AND n.account_id = document.account_id)');
SELECT cetrus.own('machine', 'machine_id IN (SELECT p.machine_id FROM principal_machine AS p WHERE p.account_id = (SELECT cetrus.account()))');

-- Of nobody in particular: what is metered, the account's zone, how a document's kind is
-- recognised, how far the tables are.
SELECT cetrus.own('application', 'true');
SELECT cetrus.own('settings', 'true');
SELECT cetrus.own('recognised_document', 'true');
SELECT cetrus.own('projection_checkpoint', 'true');
