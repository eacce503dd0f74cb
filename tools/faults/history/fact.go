package history

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"google.golang.org/protobuf/proto"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// Fact is one thing that was seen. Exactly one of the pointers is set.
type Fact struct {
	// UTCMillis is when it was told.
	UTCMillis int64 `json:"utc_millis"`

	Fault        *Fault   `json:"fault,omitempty"`
	Journalled   *Record  `json:"journalled,omitempty"`
	Acknowledged *Span    `json:"acknowledged,omitempty"`
	Published    *Message `json:"published,omitempty"`
	Counted      *Counted `json:"counted,omitempty"`
	Level        *Level   `json:"level,omitempty"`
}

// Fault is one that was injected.
type Fault struct {
	Number  int      `json:"number"`
	Kind    string   `json:"kind"`
	Targets []string `json:"targets"`
	// Met says that data was under way where it struck.
	Met bool `json:"met"`
	// Millis is how long it took.
	Millis int64 `json:"millis"`
}

// Record is an event with its place in a journal.
type Record struct {
	Agent string `json:"agent"`
	Epoch uint64 `json:"epoch"`
	Seq   uint64 `json:"seq"`
	Event string `json:"event"`
	// Digest is of its content but for epoch and number: it stays the same where an
	// agent sends an event again in a new epoch.
	Digest string `json:"digest"`

	Instance string `json:"instance"`
	// Document is empty where the event is about the instance as a whole.
	Document string `json:"document,omitempty"`
	// Attention and Millis are of the interval that it closes, if it closes one.
	Attention string `json:"attention,omitempty"`
	Millis    int64  `json:"millis,omitempty"`
}

// RecordOf is the record of an event.
func RecordOf(e *usagev1.UsageEvent) (Record, error) {
	content := proto.CloneOf(e)
	content.Epoch, content.Seq = 0, 0
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(content)
	if err != nil {
		return Record{}, fmt.Errorf("history: event: %w", err)
	}
	sum := sha256.Sum256(text)
	r := Record{
		Agent: hex.EncodeToString(e.GetAgentId()), Epoch: e.GetEpoch(), Seq: e.GetSeq(), Event: hex.EncodeToString(e.GetEventId()),
		Digest: hex.EncodeToString(sum[:8]), Instance: hex.EncodeToString(e.GetInstanceId()), Document: hex.EncodeToString(e.GetDocumentId()),
	}
	if closed := e.GetClosed(); closed != nil {
		r.Attention, r.Millis = closed.GetAttention().String(), closed.GetToBootMillis()-closed.GetFromBootMillis()
	}
	return r, nil
}

// Span are the numbers of a journal that were acknowledged to its agent.
type Span struct {
	Agent string `json:"agent"`
	Epoch uint64 `json:"epoch"`
	Lane  string `json:"lane"`
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// Message is one of the log.
type Message struct {
	// Position in the log.
	Position uint64 `json:"position"`
	// Subject, Buffer and BufferPosition say which message of which Manager it is.
	Subject        string `json:"subject"`
	Buffer         string `json:"buffer"`
	BufferPosition uint64 `json:"buffer_position"`
	// Digest is of its data.
	Digest string `json:"digest"`
	// Records are those of usage in it.
	Records []Record `json:"records,omitempty"`
	// Spans are the numbers of all lanes in it.
	Spans []Span `json:"spans,omitempty"`
}

// Counted is what the API said of an instance, when it said something else than before.
type Counted struct {
	Instance string           `json:"instance"`
	Closed   bool             `json:"closed"`
	Millis   map[string]int64 `json:"millis"`
}

// Level says that what follows of Counted is told when all was said to be counted.
type Level struct{}
