package ingest

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// probe was put to a session because another one, younger, came under the same agent's id.
type probe struct {
	nonce   uint64
	younger *session
}

// challenge finds out, where another connection of the same agent is still there, whether
// that one lives: one whose machine lost its power, or whose network did, is connected for a
// while too. Only an answer that was made after the younger one had come proves that there
// are two: an agent has given its connection up before it makes the next. That both say the
// same start proves nothing, as a machine that was cloned with its memory goes on in it.
func (s *Server) challenge(c *session) {
	if c.hello.GetRunId() == 0 {
		return // too old to know of this
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range c.agent.sessions {
		if other == c {
			continue
		}
		var b [8]byte
		_, _ = rand.Read(b[:])
		nonce := max(1, binary.BigEndian.Uint64(b[:]))
		// Of one younger session only the last probe counts.
		other.probes = slices.DeleteFunc(other.probes, func(p probe) bool { return p.younger.left })
		other.probes = append(other.probes, probe{nonce, c})
		other.out.say(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Probe{Probe: &agentv1.Probe{Nonce: nonce}}})
	}
}

// answered takes in the answer to a probe: two machines are one agent, and the younger
// session is told to begin as another one.
func (s *Server) answered(c *session, nonce uint64) {
	s.mu.Lock()
	at := slices.IndexFunc(c.probes, func(p probe) bool { return p.nonce == nonce })
	if at < 0 {
		s.mu.Unlock()
		return
	}
	younger := c.probes[at].younger
	c.probes = slices.Delete(c.probes, at, at+1)
	s.mu.Unlock()
	message := fmt.Sprintf("%q and %q are connected as one agent, as after a disk or a folder was copied: the one that came last begins as a new agent", c.hello.GetHostName(), younger.hello.GetHostName())
	c.agent.copied(message, s.config.Now())
	younger.refused(contract.ReasonCopied, message)
	younger.out.say(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Refusal{Refusal: &agentv1.Refusal{
		Reason: contract.ReasonCopied, Message: message, BeginAnew: true,
	}}})
}
