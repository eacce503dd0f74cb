package natsserver

import (
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/cetrus/cetrus/proto/contract"
)

// Names of the parts of the platform that have a user and a NATS account of their own.
const (
	Identity = "identity"
	Metering = "metering"
	Keyring  = "keyring"
	Gateway  = "gateway"
	// Archive keeps AGENT outside of NATS, and takes what it has kept out of the stream.
	Archive = "archive"
	// Operator gives orders, and compares the audit log with the log.
	Operator = "operator"
)

// Roles names all of them.
func Roles() []string {
	var names []string
	for _, r := range roles() {
		names = append(names, r.name)
	}
	return names
}

// role is what one part of the platform may do with NATS, and all that it may do.
type role struct {
	name string
	// writes are subjects of streams that it appends to.
	writes []string
	// tells are subjects that Managers hear it on, and hears those that it hears Managers on;
	// nothing of either is kept.
	tells, hears []string
	// says are subjects that other parts hear it on, and listens those that it hears them on;
	// nothing of either is kept.
	says, listens []string
	// takes are the Managers' requests that it answers, and orders the operator's.
	takes, orders []string
	// asks are the requests that it puts to other parts, and answers those of other parts that it answers.
	asks, answers []string
	// gives are the orders that it gives.
	gives []string
	// reads are streams that it makes consumers of.
	reads []reading
	// loads are streams that it gets messages of one by one. A request for one names its
	// subject in its body, of which NATS judges nothing: so this is all of the stream.
	loads []string
	// removes are streams that it takes single messages out of, empties those that it takes out
	// of whatever is old.
	removes, empties []string
	// copies are streams that it gets whole, and puts back into an installation that is new.
	copies []string
}

// reading is what a role may read of a stream by consumers.
type reading struct {
	stream string
	// filters are the widest subjects that a consumer may have; none: all of the stream.
	filters []string
	// durables are the role's consumers that the server keeps the position of. Nobody else
	// takes from them, acknowledges for them or changes them.
	durables []string
}

// roles is the table of who does what: every arrow between the platform's parts and NATS.
func roles() []role {
	ev := func(context string) string { return "ev.*.*." + context + ".>" }
	return []role{
		{
			name: Identity,
			writes: []string{
				ev(Identity), contract.AdmissionSubjects, contract.PoisonSubject("identity-mail"), contract.PoisonSubject("identity-forget"),
			},
			tells:  []string{contract.SiteAskSubject},
			hears:  []string{contract.SiteSubjects},
			orders: []string{"ops.identity.>"},
			says:   []string{contract.KeyUseSubjects}, listens: []string{contract.KeyUseSubjects},
			// It knows where people's mail goes, and sends it there itself.
			answers: []string{contract.ReportMailSubject},
			// The audit log is of all contexts.
			reads: []reading{{stream: contract.EventStream, durables: []string{"identity-mail", "identity-forget"}}},
			loads: []string{contract.EventStream, contract.PolicyStream},
		},
		{
			name:   Metering,
			writes: []string{ev(Metering), contract.PolicySubjects, contract.PoisonSubject("metering-policy"), contract.PoisonSubject("metering-saved-reports")},
			tells:  []string{contract.ConflictSubjects, contract.SightingAskSubject, contract.HealthAskSubject},
			hears:  []string{contract.LiveSubjects, contract.SightingSubjects, contract.HealthSubjects},
			orders: []string{"ops.metering.>"},
			says:   []string{contract.KeyUseSubjects},
			asks:   []string{contract.ReportMailSubject},
			reads: []reading{
				{stream: contract.AgentStream},
				{
					stream: contract.EventStream, durables: []string{"metering-policy", "metering-saved-reports"},
					// Of identity's: who calls, which accounts there are, and who is in which group and at which site.
					filters: append(callers(), ev(Metering), "ev.*.*.identity.account.*", "ev.*.*.identity.group.*", "ev.*.*.identity.manager.*"),
				},
			},
			loads:   []string{contract.AgentStream, contract.EventStream, contract.PolicyStream, contract.PoisonStream},
			removes: []string{contract.PoisonStream},
		},
		{name: Keyring, takes: []string{contract.KeyringSubjects}},
		{name: Gateway, says: []string{contract.KeyUseSubjects}, reads: []reading{{stream: contract.EventStream, filters: callers()}}},
		{name: Archive, reads: []reading{{stream: contract.AgentStream}}, loads: []string{contract.AgentStream}, empties: []string{contract.AgentStream}},
		{
			name:  Operator,
			gives: []string{"ops.identity.>", "ops.metering.>"},
			reads: []reading{{stream: contract.EventStream}, {stream: contract.AgentStream}},
			// Backups are made of copies.
			copies: []string{contract.AgentStream, contract.EventStream, contract.PolicyStream, contract.PoisonStream},
		},
	}
}

// callers are the subjects of who may call the platform: whoever answers calls follows them.
func callers() []string {
	var subjects []string
	for _, aggregate := range []string{"login", "apikey", "session", "signingkey"} {
		subjects = append(subjects, "ev.*.*.identity."+aggregate+".*")
	}
	return subjects
}

func roleNamed(name string) (role, bool) {
	all := roles()
	at := slices.IndexFunc(all, func(r role) bool { return r.name == name })
	if at < 0 {
		return role{}, false
	}
	return all[at], true
}

// account is the name of the role's NATS account.
func (r role) account() string { return strings.ToUpper(r.name) }

// request is a question that a role puts to JetStream.
type request struct {
	subject string
	answers server.ServiceRespType
	// behind is where it comes out in the platform's account; empty: on the same subject.
	behind string
}

// requests are all that the role may ask of JetStream, or publish into a stream.
func (r role) requests() []request {
	var all []request
	one := func(subjects ...string) {
		for _, s := range subjects {
			all = append(all, request{subject: s, answers: server.Singleton})
		}
	}
	one(r.writes...)
	for _, reads := range r.reads {
		for _, tail := range []string{"*", "*.>"} {
			all = append(all, request{
				subject: consumerCreate + reads.stream + "." + tail, behind: createBehind + r.name + "." + reads.stream + "." + tail,
			})
		}
		one("$JS.API.CONSUMER.INFO."+reads.stream+".*", "$JS.API.CONSUMER.DELETE."+reads.stream+".*")
		all = append(all, request{subject: consumerNext + reads.stream + ".*", answers: server.Streamed})
		for _, durable := range reads.durables {
			one("$JS.ACK." + reads.stream + "." + durable + ".>")
		}
		if !slices.Contains(r.loads, reads.stream) {
			all = append(all, request{subject: streamInfo + reads.stream, behind: streamInfoBehind + reads.stream})
		}
	}
	for _, stream := range r.loads {
		one(streamInfo+stream, "$JS.API.STREAM.MSG.GET."+stream, directGet(stream, ">"))
		all = append(all, request{subject: "$JS.API.DIRECT.GET." + stream, answers: server.Streamed})
	}
	for _, stream := range r.removes {
		one("$JS.API.STREAM.MSG.DELETE." + stream)
	}
	for _, stream := range r.empties {
		one("$JS.API.STREAM.PURGE." + stream)
	}
	for _, stream := range r.copies {
		one(copyOf+stream, putBack+stream)
		if !slices.ContainsFunc(r.reads, func(reads reading) bool { return reads.stream == stream }) {
			all = append(all, request{subject: streamInfo + stream, behind: streamInfoBehind + stream})
		}
	}
	if len(r.copies) > 0 {
		one(copyOn+"*", putOn+"*")
	}
	return all
}

// permissions are those of the role's user within its account.
func (r role) permissions() *server.Permissions {
	publish := slices.Concat(r.tells, r.says, r.gives, r.asks)
	for _, q := range r.requests() {
		publish = append(publish, q.subject)
	}
	if len(r.takes)+len(r.orders)+len(r.answers) > 0 {
		publish = append(publish, "_R_.>") // where answers to other accounts go
	}
	deny := []string{"$SYS.>"}
	for _, other := range roles() {
		for _, reads := range other.reads {
			for _, durable := range reads.durables {
				at := reads.stream + "." + durable
				// Its position would be gone with it.
				deny = append(deny, "$JS.API.CONSUMER.DELETE."+at)
				if other.name != r.name {
					deny = append(deny, consumerNext+at, "$JS.API.CONSUMER.INFO."+at)
				}
			}
		}
	}
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: publish, Deny: deny},
		Subscribe: &server.SubjectPermission{Allow: slices.Concat(r.hears, r.listens, r.takes, r.orders, r.answers, []string{"_INBOX.>"})},
	}
}
