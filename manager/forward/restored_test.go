package forward

import (
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
)

// saved copies the platform's files as they are now; restore puts them back.
func saved(t *testing.T, p *platform) (restore func()) {
	t.Helper()
	p.stop()
	dir := filepath.Join(t.TempDir(), "saved")
	copyDir(t, p.dir, dir)
	p.start()
	return func() {
		p.stop()
		p.dir = dir
		p.start()
	}
}

// The stream is the same one, and the Manager's subject is empty though nothing aged out.
func TestAPlatformPutBackToBeforeTheFirstMessageIsFilledAgain(t *testing.T) {
	for _, others := range []int{0, 1, 30} {
		p := startPlatform(t)
		restore := saved(t, p)
		s := openSite(t, t.TempDir())
		s.connect(p.address())
		for _, frame := range numbered(1, 10) {
			s.put(usage, frame)
			s.level()
		}
		s.disconnect()
		restore()
		for range others { // other Managers are faster
			p.disturb()
		}
		s.put(usage, numbered(11, 12)...)
		s.connect(p.address())
		s.level()
		same(t, s.stored[usage], p.frames(usage))
		if l := s.lane(); l.Rewinds == 0 || len(l.Lost) != 0 {
			t.Errorf("%d rewinds, lost %v", l.Rewinds, l.Lost)
		}
	}
}

// The log that was put back begins behind what the Manager sent: what it keeps it sends again, and what it keeps no
// more is in the archive and not lost.
func TestALogPutBackBehindItsArchiveHasLostNothing(t *testing.T) {
	p := startPlatform(t)
	s := openSite(t, t.TempDir())
	s.connect(p.address())
	s.put(usage, numbered(1, 10)...)
	s.level()
	s.disconnect()
	must(t, s.buffer.Release(t.Context(), 4))
	js, done := p.local()
	must(t, js.DeleteStream(t.Context(), contract.AgentStream))
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: contract.AgentStream, Subjects: []string{contract.AgentSubjects}, AllowDirect: true, FirstSeq: 100})
	must(t, err)
	done()
	s.put(usage, "11")
	s.connect(p.address())
	s.level()
	same(t, s.stored[usage][4:], p.frames(usage))
	if l := s.lane(); l.Rewinds != 1 || len(l.Lost) != 0 {
		t.Errorf("%d rewinds, lost %v", l.Rewinds, l.Lost)
	}
}

func TestATailLostBackToAnAdoptedMessageIsSentAgain(t *testing.T) {
	for _, reopened := range []bool{false, true} {
		p := startPlatform(t)
		old := openSite(t, t.TempDir())
		old.connect(p.address())
		old.put(usage, "old 1", "old 2")
		old.level()
		old.close()
		restore := saved(t, p)
		s := openSite(t, t.TempDir())
		s.put(usage, "new 1")
		s.connect(p.address())
		eventually(t, "it stops", func() bool { return s.lane().Phase == PhaseStopped })
		must(t, s.forwarder.Takeover())
		s.level()
		s.put(usage, "new 2", "new 3")
		s.level()
		s.disconnect()
		if reopened {
			s.close()
			s.open()
			s.connect(p.address())
			s.level()
			s.disconnect()
		}
		restore()
		s.put(usage, "new 4")
		s.connect(p.address())
		s.level()
		same(t, append([]string{"old 1", "old 2"}, s.stored[usage]...), p.frames(usage))
		if l := s.lane(); l.Rewinds != 1 {
			t.Errorf("%d rewinds", l.Rewinds)
		}
	}
}
