package contract

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"strings"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// Names of the streams of the log of record.
const (
	// AgentStream keeps what agents, SDKs and licence servers observe.
	AgentStream = "AGENT"
	// EventStream keeps what people and rules decide, for ever.
	EventStream = "EVENTS"
	// PolicyStream keeps the latest policy of each account, and whom its Managers admit.
	PolicyStream = "POLICY"
	// PoisonStream keeps the events that a reactor could not handle, until a
	// person has looked at them.
	PoisonStream = "POISON"
)

// Partitions is how many partitions the subjects of an account can fall into.
const Partitions = 64

// Partition is the partition of an account: FNV-1a (32 bits) over the 16 bytes
// of its id, modulo Partitions.
func Partition(account ID) int {
	h := fnv.New32a()
	h.Write(account[:])
	return int(h.Sum32() % Partitions)
}

// AgentSubject is where a Manager publishes batches of one lane.
func AgentSubject(account, manager ID, lane usagev1.Lane) string {
	return fmt.Sprintf("agent.%d.%s.%s.%s", Partition(account), account, manager, laneToken(lane))
}

// EventSubject is the one subject of an aggregate. context and aggregate are
// lower-case words; id holds no dot, no space and no wildcard.
func EventSubject(account ID, context, aggregate, id string) string {
	return fmt.Sprintf("ev.%d.%s.%s.%s.%s", Partition(account), account, context, aggregate, id)
}

// LiveSubject carries a Manager's live snapshots; it is not stored.
func LiveSubject(account, manager ID) string {
	return fmt.Sprintf("live.%d.%s.%s", Partition(account), account, manager)
}

// KeyUseSubject carries when keys of an account were used; it is not stored.
func KeyUseSubject(account ID) string { return "keyuse." + account.String() }

// KeyUseSubjects are those of all accounts.
const KeyUseSubjects = "keyuse.*"

// ReportMailSubject carries mails of saved reports that metering asks identity to send
// (identityv1.ReportMail, answered by identityv1.ReportMailAnswer); it is not stored.
const ReportMailSubject = "inner.mail.report"

// MaxAttachedBytes is the greatest size of a file that comes with a mail; what asks for the mail is one
// message of NATS, and mail servers refuse what is much larger.
const MaxAttachedBytes = 3 << 20

// SightingSubject carries a Manager's sighting reports; it is not stored.
func SightingSubject(account, manager ID) string {
	return fmt.Sprintf("seen.%d.%s.%s", Partition(account), account, manager)
}

// SightingAskSubject carries the platform's wish that all Managers repeat the
// sighting reports that they have. It says nothing and is not stored.
const SightingAskSubject = "ask.sightings"

// HealthSubject carries how a Manager's agents are doing (agentv1.AgentStates); it is
// not stored.
func HealthSubject(account, manager ID) string {
	return fmt.Sprintf("health.%d.%s.%s", Partition(account), account, manager)
}

// HealthAskSubject carries the platform's wish that all Managers tell how all of their
// agents are doing. It says nothing and is not stored.
const HealthAskSubject = "ask.health"

// ConflictSubject carries, to the account's Managers, epochs under which an agent has
// sent two contents (EncodeConflict), so that they take no more of them; it is not stored.
func ConflictSubject(account ID) string {
	return fmt.Sprintf("conflict.%d.%s", Partition(account), account)
}

// EncodeConflict is the body of a message on ConflictSubject: the agent's 16 bytes and
// the epoch's 8, the highest first.
func EncodeConflict(agent ID, epoch uint64) []byte {
	return binary.BigEndian.AppendUint64(agent[:], epoch)
}

// ParseConflict reads what EncodeConflict wrote; ok is false for anything else.
func ParseConflict(body []byte) (agent ID, epoch uint64, ok bool) {
	if len(body) != len(agent)+8 {
		return agent, 0, false
	}
	return ID(body[:len(agent)]), binary.BigEndian.Uint64(body[len(agent):]), true
}

// PolicySubject carries the latest policy of an account.
func PolicySubject(account ID) string {
	return fmt.Sprintf("policy.%d.%s", Partition(account), account)
}

// PolicyAskSubject asks the leader of the stream of policies, by request and answer, for the
// account's: a replica that is behind may answer otherwise. The answer is the policy's bytes,
// none where there is none or the leader does not answer.
func PolicyAskSubject(account ID) string {
	return fmt.Sprintf("ask.policy.%d.%s", Partition(account), account)
}

// AdmissionSubject carries whom an account's Managers admit (policyv1.Admission), the latest, in
// the stream of policies.
func AdmissionSubject(account ID) string {
	return fmt.Sprintf("admission.%d.%s", Partition(account), account)
}

// SiteSubject carries what a Manager tells of its site (policyv1.SiteReport); it is not stored.
func SiteSubject(account, manager ID) string {
	return fmt.Sprintf("site.%d.%s.%s", Partition(account), account, manager)
}

// SiteAskSubject carries the platform's wish that all Managers tell of their sites. It says nothing
// and is not stored.
const SiteAskSubject = "ask.sites"

// ParseSiteSubject reads the account and the Manager out of a SiteSubject.
func ParseSiteSubject(subject string) (account, manager ID, err error) {
	parts := strings.Split(subject, ".")
	if len(parts) != 4 || parts[0] != "site" {
		return account, manager, fmt.Errorf("contract: subject %q is not site.<p>.<account>.<manager>", subject)
	}
	if account, err = ParseID(parts[2]); err == nil {
		manager, err = ParseID(parts[3])
	}
	return account, manager, err
}

// KeyringSubject takes deposits of principals' keys, by request and answer.
func KeyringSubject(account, manager ID) string {
	return fmt.Sprintf("keyring.%d.%s.%s", Partition(account), account, manager)
}

// PoisonSubject is where the named reactor sets an event aside that it could not
// handle. The name is a lower-case word.
func PoisonSubject(reactor string) string { return "poison." + reactor }

// ManagerInbox is the prefix of the inbox that a Manager must choose for its
// connection (nats.CustomInboxPrefix): the only one that it may subscribe to, so
// that no Manager can read the answers meant for another.
func ManagerInbox(manager ID) string { return "_INBOX." + manager.String() }

// Subject patterns that the streams and the platform's subscribers bind to.
const (
	AgentSubjects  = "agent.>"
	EventSubjects  = "ev.>"
	PolicySubjects = "policy.>"
	// AdmissionSubjects are kept in the stream of policies too.
	AdmissionSubjects = "admission.>"
	SiteSubjects      = "site.>"
	PolicyAsks        = "ask.policy.*.*"
	ConflictSubjects  = "conflict.>"
	LiveSubjects      = "live.>"
	SightingSubjects  = "seen.>"
	HealthSubjects    = "health.>"
	KeyringSubjects   = "keyring.>"
	PoisonSubjects    = "poison.>"
)

// ParseAgentSubject reads the account, the Manager and the lane out of a
// subject of the AGENT stream.
func ParseAgentSubject(subject string) (account, manager ID, lane usagev1.Lane, err error) {
	parts := strings.Split(subject, ".")
	if len(parts) != 5 || parts[0] != "agent" {
		return account, manager, lane, fmt.Errorf("contract: subject %q is not agent.<p>.<account>.<manager>.<lane>", subject)
	}
	if account, err = ParseID(parts[2]); err != nil {
		return account, manager, lane, fmt.Errorf("contract: subject %q: account: %w", subject, err)
	}
	if manager, err = ParseID(parts[3]); err != nil {
		return account, manager, lane, fmt.Errorf("contract: subject %q: manager: %w", subject, err)
	}
	for _, l := range []usagev1.Lane{usagev1.Lane_LANE_USAGE, usagev1.Lane_LANE_CHOICE} {
		if parts[4] == laneToken(l) {
			return account, manager, l, nil
		}
	}
	return account, manager, lane, fmt.Errorf("contract: subject %q: no lane %q", subject, parts[4])
}

func laneToken(lane usagev1.Lane) string {
	return strings.ToLower(strings.TrimPrefix(lane.String(), "LANE_"))
}

// ID is a random 16-byte id: a UUID without its punctuation on the wire, with
// it wherever people read it.
type ID [16]byte

// String is the usual text of a UUID, 36 characters.
func (id ID) String() string {
	h := hex.EncodeToString(id[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// IsZero tells whether the id is the zero id, which names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// ParseID reads the text of a UUID.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, fmt.Errorf("contract: %q is not a UUID", s)
	}
	if _, err := hex.Decode(id[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:])); err != nil {
		return ID{}, fmt.Errorf("contract: %q is not a UUID", s)
	}
	return id, nil
}

// IDFrom takes an id out of the bytes field of a message.
func IDFrom(b []byte) (ID, error) {
	var id ID
	if len(b) != len(id) {
		return id, fmt.Errorf("contract: an id has 16 bytes, not %d", len(b))
	}
	copy(id[:], b)
	return id, nil
}
