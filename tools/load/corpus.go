package load

import (
	"bufio"
	"bytes"
	"compress/gzip"
	_ "embed"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protodelim"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// Session is what the real state machine said about one desktop session, from
// its first event to the end of its last instance.
type Session struct {
	// Events are in the order of their journal. Their times are milliseconds
	// since the session's boot; ids stand for themselves within the session only.
	Events []*usagev1.UsageEvent
	// SpanMillis is the boot time at which the last event stands, plus a pause.
	SpanMillis int64
}

// Corpus is a recorded set of sessions.
type Corpus struct {
	Sessions []Session
}

// Events is how many events all sessions have together.
func (c *Corpus) Events() int {
	n := 0
	for _, s := range c.Sessions {
		n += len(s.Events)
	}
	return n
}

// pauseMillis lies between the end of a session and its repetition.
const pauseMillis = 60_000

//go:embed corpus.pb.gz
var recorded []byte

// Recorded is the corpus kept in the repository. `go test ./load -run
// TestRecord -update` records it anew from the agent's code.
func Recorded() (*Corpus, error) {
	return ReadCorpus(bytes.NewReader(recorded))
}

// WriteCorpus writes a corpus: gzip over length-delimited usage events, with an
// empty event after each session.
func WriteCorpus(w io.Writer, c *Corpus) error {
	zip := gzip.NewWriter(w)
	for _, session := range c.Sessions {
		for _, event := range session.Events {
			if _, err := protodelim.MarshalTo(zip, event); err != nil {
				return fmt.Errorf("load: writing a corpus: %w", err)
			}
		}
		if _, err := protodelim.MarshalTo(zip, &usagev1.UsageEvent{}); err != nil {
			return fmt.Errorf("load: writing a corpus: %w", err)
		}
	}
	if err := zip.Close(); err != nil {
		return fmt.Errorf("load: writing a corpus: %w", err)
	}
	return nil
}

// ReadCorpus reads what WriteCorpus wrote.
func ReadCorpus(r io.Reader) (*Corpus, error) {
	zip, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("load: reading a corpus: %w", err)
	}
	in := bufio.NewReader(zip)
	corpus := &Corpus{}
	var session Session
	for {
		event := &usagev1.UsageEvent{}
		err := protodelim.UnmarshalFrom(in, event)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("load: reading a corpus: %w", err)
		}
		if len(event.GetInstanceId()) > 0 {
			session.Events = append(session.Events, event)
			session.SpanMillis = max(session.SpanMillis, event.GetAtBootMillis()+pauseMillis)
			continue
		}
		if len(session.Events) > 0 {
			corpus.Sessions = append(corpus.Sessions, session)
		}
		session = Session{}
	}
	if len(corpus.Sessions) == 0 {
		return nil, errors.New("load: the corpus is empty")
	}
	return corpus, nil
}
