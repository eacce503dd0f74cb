package releases

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/release"
)

// shelf is a library with a clock and a vendor of its own.
type shelf struct {
	t       testing.TB
	config  Config
	private ed25519.PrivateKey
	now     time.Time
	*Library
}

func newShelf(t testing.TB, shares ...int) *shelf {
	t.Helper()
	public, private, err := release.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	s := &shelf{t: t, private: private, now: time.Date(2026, 5, 4, 8, 0, 0, 0, time.UTC)}
	s.config = Config{Dir: filepath.Join(t.TempDir(), "releases"), Keys: release.Keys{"vendor": public}, Shares: shares, Now: func() time.Time { return s.now }}
	s.reopen()
	return s
}

func (s *shelf) reopen() {
	s.t.Helper()
	var err error
	if s.Library, err = Open(s.config); err != nil {
		s.t.Fatal(err)
	}
}

func program(number uint64) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "program %d ", number), 1000)
}

func (s *shelf) file(number, least uint64) []byte {
	s.t.Helper()
	sum := sha256.Sum256(program(number))
	signed, err := release.Sign(release.Manifest{
		Name: release.AgentName, Version: fmt.Sprint(number), Number: number, Least: least, System: "linux", Architecture: "amd64",
		Size: int64(len(program(number))), SHA256: hex.EncodeToString(sum[:]),
	}, "vendor", s.private)
	if err != nil {
		s.t.Fatal(err)
	}
	header, err := signed.Header()
	if err != nil {
		s.t.Fatal(err)
	}
	return append(header, program(number)...)
}

func (s *shelf) add(number, least uint64) Release {
	s.t.Helper()
	r, err := s.Add(bytes.NewReader(s.file(number, least)))
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func agentOf(n int) (id contract.ID) {
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return id
}

func report(number, refused uint64) *agentv1.ReleaseReport {
	return &agentv1.ReleaseReport{System: "linux", Architecture: "amd64", Number: number, State: agentv1.ReleaseState_RELEASE_STATE_CURRENT, Refused: refused}
}

// offered is the number that an agent is offered; 0: none.
func (s *shelf) offered(agent int, r *agentv1.ReleaseReport) uint64 {
	s.t.Helper()
	offer, _ := s.Offer(agentOf(agent), r)
	if offer == nil {
		return 0
	}
	m, err := release.Signed{Manifest: offer.GetManifest(), KeyID: offer.GetKeyId(), Ed25519: offer.GetSignature()}.Open(s.config.Keys)
	if err != nil {
		s.t.Fatal(err)
	}
	return m.Number
}

func (s *shelf) share(agents int) (n int) {
	for a := range agents {
		if offer, _ := s.Offer(agentOf(a), report(1, 0)); offer != nil {
			n++
		}
	}
	return n
}

func TestWavesWidenWhileAgentsAreWell(t *testing.T) {
	t.Parallel()
	s := newShelf(t, 1, 10, 50, 100)
	file := s.add(2, 0).File
	const agents = 5000
	before := -1
	for _, want := range []int{1, 10, 50, 100} {
		got := s.share(agents)
		if got < agents*want/100*8/10 || got > agents*want/100*12/10 || got <= before {
			t.Errorf("%d of %d agents are offered a release that is for %d %%", got, agents, want)
		}
		before = got
		s.now = s.now.Add(DefaultPeriod - time.Second)
		s.widen()
		if s.share(agents) != got {
			t.Error("the wave widens too early")
		}
		s.now = s.now.Add(time.Second)
		s.reopen() // how far it is outlives the Manager
		s.widen()
	}
	for a := range 40 {
		s.Report(agentOf(a), report(2, 0))
	}
	s.Report(agentOf(100), report(1, 2)) // 1 of 41 is within the limit of 5 %
	if s.share(agents) != agents {
		t.Error("one failure holds the release")
	}
	s.Report(agentOf(101), report(1, 2))
	s.Report(agentOf(102), report(1, 2))
	if got := s.share(agents); got != 0 {
		t.Errorf("%d agents are offered a release that is not well", got)
	}
	s.reopen()
	if s.share(agents) != 0 {
		t.Error("a start of the Manager offers it again")
	}
	if err := s.GoOn(file); err != nil {
		t.Fatal(err)
	}
	if s.share(agents) != agents {
		t.Error("it does not go on")
	}
	_, changed := s.Offer(agentOf(1), report(1, 0))
	if err := s.Hold(file); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("connected agents' sessions are not told")
	}
	if s.share(agents) != 0 {
		t.Error("it is not held")
	}
	if err := s.Withdraw(file); err != nil {
		t.Fatal(err)
	}
	if s.reopen(); len(s.List()) != 0 {
		t.Error("it is still there")
	}
	if err := s.Hold(file); err == nil {
		t.Error("what is not there is held")
	}
}

func TestOfferedIsTheNewestThatFits(t *testing.T) {
	t.Parallel()
	s := newShelf(t, 100)
	for number, least := range map[uint64]uint64{2: 0, 3: 0, 5: 3} {
		s.add(number, least)
	}
	for _, c := range []struct{ number, refused, want uint64 }{{0, 0, 3}, {2, 0, 3}, {3, 0, 5}, {4, 0, 5}, {5, 0, 0}, {6, 0, 0}, {3, 5, 0}, {3, 4, 5}} {
		if got := s.offered(1, report(c.number, c.refused)); got != c.want {
			t.Errorf("an agent on %d that refused %d is offered %d, not %d", c.number, c.refused, got, c.want)
		}
	}
	other := report(1, 0)
	other.Architecture = "arm64"
	if s.offered(1, other) != 0 || s.offered(1, nil) != 0 {
		t.Error("what does not fit is offered")
	}
}

func TestOnlyWhatWasSignedIsKept(t *testing.T) {
	t.Parallel()
	s, stranger := newShelf(t, 100), newShelf(t, 100)
	good := s.file(2, 0)
	for name, bad := range map[string][]byte{
		"stranger's": stranger.file(2, 0), "truncated": good[:len(good)-1], "longer": append(bytes.Clone(good), 'x'),
		"tampered": append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]^1), "empty": nil,
	} {
		if _, err := s.Add(bytes.NewReader(bad)); err == nil {
			t.Errorf("a %s release is kept", name)
		}
	}
	if _, err := (&Library{config: Config{Dir: s.config.Dir}}).Add(bytes.NewReader(good)); err == nil {
		t.Error("a library without keys keeps a release")
	}
	if left, err := os.ReadDir(s.config.Dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	s.add(2, 0)
	s.add(2, 0) // the same again is no mistake
	if _, err := s.Add(bytes.NewReader(s.file(2, 1))); err != nil {
		t.Logf("another manifest of the same program: %v", err)
	}
	if n := len(s.List()); n != 1 {
		t.Errorf("%d are kept", n)
	}
}

func TestPiecesMakeTheProgram(t *testing.T) {
	t.Parallel()
	s := newShelf(t, 100)
	file := s.add(2, 0).File
	sum := sha256.Sum256(program(2))
	rapid.Check(t, func(t *rapid.T) {
		var got []byte
		for {
			piece, err := s.Piece(sum[:], uint64(len(got)), rapid.Uint32Range(700, 5000).Draw(t, "most"))
			if err != nil {
				t.Fatal(err)
			}
			if len(piece) == 0 {
				break
			}
			got = append(got, piece...)
		}
		if !bytes.Equal(got, program(2)) {
			t.Fatalf("%d bytes, not the program's %d", len(got), len(program(2)))
		}
	})
	if _, err := s.Piece(sum[:4], 0, 10); err == nil {
		t.Error("a hash that is none is served")
	}
	if err := s.Hold(file); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Piece(sum[:], 0, 10); err == nil {
		t.Error("a release that is held is served")
	}
}

// A file that has changed since it was signed is held and told of, over restarts and orders,
// until the signed one is added again.
func TestADamagedFileIsHeld(t *testing.T) {
	t.Parallel()
	s := newShelf(t, 100)
	file := s.add(2, 0).File
	path := filepath.Join(s.config.Dir, file)
	sum := sha256.Sum256(program(2))
	served := func() bool {
		_, err := s.Piece(sum[:], 1000, 10)
		return err == nil
	}
	held := func(when string) {
		t.Helper()
		if r := s.List()[0]; served() || !r.Damaged || r.Held == "" || s.share(10) != 0 {
			t.Errorf("%s: %+v", when, r)
		}
	}
	for name, damage := range map[string]func() error{
		"changed": func() error {
			text := s.file(2, 0)
			text[len(text)-1] ^= 1
			return os.WriteFile(path, text, 0o600)
		},
		"short": func() error { return os.Truncate(path, int64(len(s.file(2, 0)))-1) },
		"gone":  func() error { return os.Remove(path) },
	} {
		if !served() || s.share(10) != 10 {
			t.Fatalf("it is not served before it is %s: %+v", name, s.List())
		}
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, s.now); err != nil && name != "gone" { // clocks of files are coarse
			t.Fatal(err)
		}
		s.now = s.now.Add(time.Hour)
		if served() {
			t.Errorf("%s: it is served", name)
		}
		held(name)
		if name != "gone" {
			s.reopen()
			held(name + ", after a restart")
		}
		if err := s.GoOn(file); err != nil {
			t.Fatal(err)
		}
		if served() {
			t.Errorf("%s: an order has it served", name)
		}
		held(name + ", after an order")
		if r := s.add(2, 0); r.Damaged || r.Held != "" || !served() {
			t.Errorf("%s: it is not mended: %+v", name, r)
		}
	}
}

func TestLostWavesHold(t *testing.T) {
	t.Parallel()
	s := newShelf(t, 100)
	s.add(2, 0)
	if err := os.WriteFile(filepath.Join(s.config.Dir, wavesFile), []byte("damage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s.reopen(); s.List()[0].Held == "" || s.share(10) != 0 {
		t.Errorf("%+v", s.List())
	}
}

func TestParseShares(t *testing.T) {
	t.Parallel()
	if shares, err := ParseShares("1, 10,100"); err != nil || len(shares) != 3 {
		t.Error(shares, err)
	}
	for _, bad := range []string{"", "x", "1,50", "50,1,100", "-1,100"} {
		if _, err := ParseShares(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// Plug-ins are offered each by its own name and number, to agents that take them, and held
// each for itself; a key for plug-ins signs no agent.
func TestPluginsAreOfferedByTheirNames(t *testing.T) {
	t.Parallel()
	s := newShelf(t, 100)
	public, private, err := release.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	s.config.PluginKeys = release.Keys{"maker": public}
	s.reopen()
	plugin := func(name string, number uint64) (Release, error) {
		t.Helper()
		text := fmt.Appendf(nil, "%s %d", name, number)
		sum := sha256.Sum256(text)
		signed, err := release.Sign(release.Manifest{
			Name: name, Version: "1", Number: number, System: "linux", Architecture: "amd64", Size: int64(len(text)), SHA256: hex.EncodeToString(sum[:]),
		}, "maker", private)
		if err != nil {
			t.Fatal(err)
		}
		header, err := signed.Header()
		if err != nil {
			t.Fatal(err)
		}
		return s.Add(bytes.NewReader(append(header, text...)))
	}
	files := map[string]string{}
	for name, numbers := range map[string][]uint64{"counter": {1, 3}, "lister": {2}} {
		for _, number := range numbers {
			r, err := plugin(name, number)
			if err != nil || r.Percent != 100 {
				t.Fatalf("%+v, %v", r, err)
			}
			files[fmt.Sprint(name, number)] = r.File
		}
	}
	if _, err := plugin(release.AgentName, 9); !errors.As(err, new(*release.RefusedError)) {
		t.Errorf("a key for plug-ins signs an agent: %v", err)
	}
	s.add(2, 0)
	has := func(reports ...*agentv1.ReleaseReport) *agentv1.PluginReleases {
		return &agentv1.PluginReleases{System: "linux", Architecture: "amd64", Plugins: reports}
	}
	offered := func(p *agentv1.PluginReleases) (list []string) {
		t.Helper()
		offers := s.OfferPlugins(agentOf(1), p)
		for _, offer := range offers {
			m, err := release.Signed{Manifest: offer.GetManifest(), KeyID: offer.GetKeyId(), Ed25519: offer.GetSignature()}.Open(s.config.PluginKeys)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, fmt.Sprint(m.Name, m.Number))
		}
		return list
	}
	check := func(p *agentv1.PluginReleases, want ...string) {
		t.Helper()
		if got := offered(p); !slices.Equal(got, want) {
			t.Errorf("an agent with %v is offered %q, not %q", p, got, want)
		}
	}
	check(nil)
	check(has(), "counter3", "lister2")
	check(&agentv1.PluginReleases{System: "windows", Architecture: "amd64"})
	check(has(&agentv1.ReleaseReport{Name: "counter", Number: 3}), "lister2")
	check(has(&agentv1.ReleaseReport{Name: "counter", Number: 1, Refused: 3}, &agentv1.ReleaseReport{Name: "lister", Number: 1}), "lister2")
	if s.offered(1, report(1, 0)) != 2 {
		t.Error("the agent's own release is not offered beside plug-ins")
	}
	s.ReportPlugins(agentOf(1), has(&agentv1.ReleaseReport{Name: "counter", Number: 1, Refused: 3, Message: "it crashed"}))
	check(has(), "counter1", "lister2") // 3 is held
	if list := s.List(); list[0].File != files["counter3"] || list[0].Failed != 1 || list[0].Held == "" {
		t.Errorf("the release that failed is %+v", list[0])
	}
	if err := s.Withdraw(files["lister2"]); err != nil {
		t.Fatal(err)
	}
	check(has(), "counter1")
}
