// Package manager is the hub of a site: agents talk to it, and it talks out to
// the platform.
//
// A Manager takes agents' frames on TCP 10041, answers only when its own synced
// buffer holds them, and forwards them to the AGENT stream as the only writer of
// its subjects. It mirrors the account's policy, binds people to random
// principals and seals their names, and shows recent use on a local page. It
// starts and serves its agents with the platform out of reach.
//
// It speaks TLS 1.3 to agents, as the authority of its site, at which they enrol; or with
// certificates from files, which it takes renewed without a restart. It goes out to the platform through an HTTP proxy where there is
// one.
//
// The rooms:
//
//	ingest   the agents' stream: checks, acknowledgements, back-pressure
//	enroll   the site's authority: tokens, agents' certificates, revocation
//	buffer   the durable buffer: group commit into an embedded JetStream
//	forward  the fenced way from the buffer into the platform's log
//	people   persons to principals, keys, sealed names
//	policy   the account's policy, mirrored to a file
//	releases signed releases of the agent and of plug-ins, and who is offered which
//
// This module may import proto, NATS, gRPC, OpenTelemetry, koanf, cobra and
// kardianos/service; never the platform's services.
package manager
