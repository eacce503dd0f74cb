package main

import "context"

// target is something that can be run: a list of parts, in the order in which
// they start; they stop in the reverse order.
type target struct {
	name, short string
	parts       []part
}

// targets is the table of all targets.
var targets = []target{
	{"all", "Run the whole platform and a Manager on this machine", []part{natsPart, credentialsPart, postgresPart, keyringPart, mailPart, identityPart, auditPart, meteringPart, archivePart, grpcPart, gatewayPart, managerPart}},
	{"nats", "Run the embedded NATS server alone", []part{natsPart}},
	{"postgres", "Run the private PostgreSQL server alone", []part{postgresPart}},
	{"keyring", "Run the keeper of the keys of names, with NATS and PostgreSQL elsewhere", []part{keyringPart}},
	{"identity", "Run identity and its gRPC server, with NATS and PostgreSQL elsewhere", []part{credentialsPart, mailPart, identityPart, auditPart, grpcPart}},
	{"metering", "Run metering and its gRPC server, with NATS and PostgreSQL elsewhere", []part{credentialsPart, meteringPart, grpcPart}},
	{archiveTarget, "Keep the stream AGENT in an archive, with NATS elsewhere", []part{archivePart}},
	{"gateway", "Run the REST gateway, with NATS, metering and identity elsewhere", []part{credentialsPart, gatewayPart}},
}

// everywhere are the parts that every target has, started before its own.
func everywhere() []part { return []part{keysPart, encryptionPart, healthPart} }

// part is a piece of the platform with a life of its own.
type part struct {
	// name is told in logs and errors.
	name string
	// listens names the settings of the addresses that it takes.
	listens []string
	// start makes the part ready, using and adding to what the process holds, and
	// returns what runs it until its context ends. A nil runner means that the
	// part is switched off.
	start func(ctx context.Context, p *process) (runner, error)
}

// runner runs a part until its context ends, then stops it in good order and
// returns nil; it returns an error as soon as the part cannot go on.
type runner func(ctx context.Context) error
