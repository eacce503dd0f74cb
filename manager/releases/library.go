package releases

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/release"

	"github.com/cetrus/cetrus/manager/internal/durable"
)

const (
	fileSuffix = ".release"
	wavesFile  = "waves"
	// maxPiece is the most that one request gets.
	maxPiece = 256 << 10
	// maxReleases bounds the folder.
	maxReleases = 200
	// tendPeriod is how often it is looked whether a wave is over.
	tendPeriod = time.Minute
)

// Defaults of a Config.
const (
	DefaultPeriod         = 24 * time.Hour
	DefaultHealthyPercent = 95
)

// DefaultShares are percent of the agents, one wave after the other.
func DefaultShares() []int { return []int{1, 10, 50, 100} }

// Config says what is offered, and to how many.
type Config struct {
	// Dir keeps the releases. It is made where it is missing.
	Dir string
	// Keys are trusted; a library without keys takes nothing. PluginKeys are trusted for
	// plug-ins besides, and for nothing else.
	Keys, PluginKeys release.Keys
	// Shares are the waves: percent of the agents, growing, the last one 100.
	Shares []int
	// Period is how long a wave lasts at least.
	Period time.Duration
	// HealthyPercent of those that tried a release must be well, or it is held.
	HealthyPercent int
	// Now is the clock; time.Now by default.
	Now func() time.Time
	Log *slog.Logger
}

// ParseShares reads "1,10,50,100".
func ParseShares(text string) (shares []int, err error) {
	for part := range strings.SplitSeq(text, ",") {
		var n int
		if _, err := fmt.Sscanf(strings.TrimSpace(part), "%d", &n); err != nil {
			return nil, fmt.Errorf("releases: %q is no list of percents such as 1,10,50,100", text)
		}
		shares = append(shares, n)
	}
	return shares, checkShares(shares)
}

func checkShares(shares []int) error {
	if len(shares) == 0 || shares[0] < 0 || shares[len(shares)-1] != 100 || !slices.IsSorted(shares) {
		return fmt.Errorf("releases: the waves %v are not to grow from 0 or more to 100 percent", shares)
	}
	return nil
}

// Library is a folder of releases. Its methods may be called from any goroutine.
type Library struct {
	config Config
	log    *slog.Logger

	verifying sync.Mutex // taken before mu: files are read by one at a time

	mu      sync.Mutex
	kept    []*kept // the greatest number first
	changed chan struct{}
}

// kept is one release.
type kept struct {
	file     string
	manifest release.Manifest
	offer    *agentv1.ReleaseOffer
	header   int64 // bytes before the program
	wave     wave
	healthy  map[contract.ID]bool
	failed   map[contract.ID]bool
	reason   string // the last failure, as its agent told it
	sound    stamp  // what the file was like when its program was last found to be the signed one
}

// stamp is what tells a file from the same one after a change.
type stamp struct {
	bytes    int64
	modified time.Time
}

// wave is how far a release is; it is kept over restarts.
type wave struct {
	Step  int       `json:"step"`
	Since time.Time `json:"since"`
	Held  string    `json:"held,omitempty"` // why
	// Damaged: it is held because its file is not what was signed.
	Damaged bool `json:"damaged,omitempty"`
	// Forgiven is how many failures a person has accepted.
	Forgiven int `json:"forgiven,omitempty"`
}

// Release is one release, for people.
type Release struct {
	release.Manifest

	File string `json:"file"`
	// Percent of the agents that are offered it now; 0 where it is held.
	Percent int    `json:"percent"`
	Held    string `json:"held,omitempty"`
	// Damaged: it is held because this Manager's file of it is not what was signed.
	Damaged bool `json:"damaged,omitempty"`
	// Healthy and Failed are agents that took it, as far as they were heard of since the
	// Manager started.
	Healthy int    `json:"healthy"`
	Failed  int    `json:"failed"`
	Failure string `json:"failure,omitempty"`
}

// Open opens a library.
func Open(config Config) (*Library, error) {
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Shares == nil {
		config.Shares = DefaultShares()
	}
	config.Period = cmp.Or(config.Period, DefaultPeriod)
	config.HealthyPercent = cmp.Or(config.HealthyPercent, DefaultHealthyPercent)
	if err := checkShares(config.Shares); err != nil {
		return nil, err
	}
	l := &Library{config: config, log: config.Log.With("part", "releases"), changed: make(chan struct{})}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("releases: %w", err)
	}
	waves := map[string]wave{}
	text, err := durable.Read(filepath.Join(config.Dir, wavesFile))
	if err == nil {
		err = json.Unmarshal(text, &waves)
	}
	lost := err != nil && !errors.Is(err, fs.ErrNotExist)
	if lost {
		l.log.Error("how far releases are is lost, so they are held", "error", err)
	}
	entries, err := os.ReadDir(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("releases: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), fileSuffix) {
			continue
		}
		k, err := l.read(e.Name())
		if err != nil {
			l.log.Error("a release is left aside", "file", e.Name(), "error", err)
			continue
		}
		var known bool
		if k.wave, known = waves[k.file]; !known {
			k.wave = wave{Since: config.Now()}
		}
		k.wave.Step = min(max(0, k.wave.Step), len(config.Shares)-1)
		if lost {
			k.wave.Held = "how far it was is lost"
		}
		l.kept = append(l.kept, k)
	}
	l.sort()
	return l, nil
}

// read reads and verifies a kept file but for its program, which agents verify.
func (l *Library) read(name string) (*kept, error) {
	f, err := os.Open(filepath.Join(l.config.Dir, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	signed, _, header, err := release.ReadHeader(f)
	if err != nil {
		return nil, err
	}
	return l.open(signed, header)
}

func (l *Library) open(signed release.Signed, header int64) (*kept, error) {
	m, err := signed.Open(l.config.Keys)
	if err != nil && l.config.PluginKeys != nil {
		if m, err = signed.Open(l.config.PluginKeys); err == nil && m.Name == release.AgentName {
			err = &release.RefusedError{Reason: fmt.Sprintf("the key %q is trusted for plug-ins only", signed.KeyID)}
		}
	}
	if err != nil {
		return nil, err
	}
	return &kept{
		file:     fmt.Sprintf("%s-%d-%s-%s%s", m.Name, m.Number, m.System, m.Architecture, fileSuffix),
		manifest: m,
		offer:    &agentv1.ReleaseOffer{Manifest: signed.Manifest, KeyId: signed.KeyID, Signature: signed.Ed25519},
		header:   header,
		healthy:  map[contract.ID]bool{}, failed: map[contract.ID]bool{},
	}, nil
}

func (l *Library) sort() {
	slices.SortFunc(l.kept, func(a, b *kept) int {
		return cmp.Or(cmp.Compare(b.manifest.Number, a.manifest.Number), strings.Compare(a.file, b.file))
	})
}

// Add takes a release file in, and offers it to the first wave.
func (l *Library) Add(from io.Reader) (Release, error) {
	if len(l.config.Keys)+len(l.config.PluginKeys) == 0 {
		return Release{}, errors.New("releases: no keys are configured, so no release is trusted: name them with release-keys, or plugin-keys for plug-ins")
	}
	signed, program, _, err := release.ReadHeader(from)
	if err != nil {
		return Release{}, err
	}
	k, err := l.open(signed, 0)
	if err != nil {
		return Release{}, err
	}
	temporary, err := os.CreateTemp(l.config.Dir, ".new-*")
	if err != nil {
		return Release{}, fmt.Errorf("releases: %w", err)
	}
	defer os.Remove(temporary.Name()) // fails once it is renamed
	header, err := signed.Header()
	if err == nil {
		_, err = temporary.Write(header)
	}
	if err == nil {
		err = release.CopyProgram(temporary, program, k.manifest)
	}
	if err == nil {
		err = temporary.Sync()
	}
	if err = errors.Join(err, temporary.Close()); err != nil {
		return Release{}, err
	}
	k.header = int64(len(header))
	k.wave.Since = l.config.Now()

	l.mu.Lock()
	defer l.mu.Unlock()
	for _, there := range l.kept {
		if there.file == k.file {
			if there.manifest.SHA256 == k.manifest.SHA256 {
				return l.mend(there, temporary.Name(), k.header)
			}
			return Release{}, fmt.Errorf("releases: there is another release with number %d already: %v; numbers grow with every release", there.manifest.Number, there.manifest)
		}
	}
	if len(l.kept) >= maxReleases {
		return Release{}, fmt.Errorf("releases: there are %d already; withdraw some", len(l.kept))
	}
	if err := os.Rename(temporary.Name(), filepath.Join(l.config.Dir, k.file)); err != nil {
		return Release{}, fmt.Errorf("releases: %w", err)
	}
	l.kept = append(l.kept, k)
	l.sort()
	return l.show(k), l.save() // also makes the new name durable
}

// mend puts a sound file in the place of a damaged one, whose wave goes on. It is called
// with the lock held.
func (l *Library) mend(k *kept, sound string, header int64) (Release, error) {
	if !k.wave.Damaged {
		return l.show(k), nil
	}
	if err := os.Rename(sound, filepath.Join(l.config.Dir, k.file)); err != nil {
		return Release{}, fmt.Errorf("releases: %w", err)
	}
	k.header, k.sound = header, stamp{}
	k.wave.Held, k.wave.Damaged = "", false
	return l.show(k), l.save()
}

// save keeps how far the releases are, and tells whoever offers them. It is called with
// the lock held.
func (l *Library) save() error {
	waves := map[string]wave{}
	for _, k := range l.kept {
		waves[k.file] = k.wave
	}
	text, err := json.Marshal(waves)
	if err == nil {
		err = durable.Replace(filepath.Join(l.config.Dir, wavesFile), text)
	}
	close(l.changed)
	l.changed = make(chan struct{})
	if err != nil {
		return fmt.Errorf("releases: keep how far they are: %w", err)
	}
	return nil
}

// List tells of all releases, the newest first.
func (l *Library) List() []Release {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]Release, len(l.kept))
	for i, k := range l.kept {
		list[i] = l.show(k)
	}
	return list
}

func (l *Library) show(k *kept) Release {
	r := Release{Manifest: k.manifest, File: k.file, Percent: l.config.Shares[k.wave.Step], Held: k.wave.Held, Damaged: k.wave.Damaged, Healthy: len(k.healthy), Failed: len(k.failed), Failure: k.reason}
	if r.Held != "" {
		r.Percent = 0
	}
	return r
}

func (l *Library) find(file string) (int, error) {
	i := slices.IndexFunc(l.kept, func(k *kept) bool { return k.file == file })
	if i < 0 {
		return i, fmt.Errorf("releases: there is no %q; `cetrus-manager release list` tells what there is", file)
	}
	return i, nil
}

// Withdraw stops offering a release, and removes it. Agents that run it go on with it, until
// they are offered one with a greater number.
func (l *Library) Withdraw(file string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, err := l.find(file)
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(l.config.Dir, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("releases: %w", err)
	}
	l.kept = slices.Delete(l.kept, i, i+1)
	return l.save()
}

// Hold keeps a release from agents that have not taken it yet.
func (l *Library) Hold(file string) error {
	return l.order(file, func(k *kept) { k.wave.Held = "an administrator holds it" })
}

// GoOn offers a release again where it stopped, whatever failed until now.
func (l *Library) GoOn(file string) error {
	return l.order(file, func(k *kept) {
		k.wave.Held, k.wave.Damaged, k.wave.Since, k.wave.Forgiven = "", false, l.config.Now(), len(k.failed)
	})
}

func (l *Library) order(file string, change func(*kept)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, err := l.find(file)
	if err != nil {
		return err
	}
	change(l.kept[i])
	return l.save()
}

// Offer is what an agent is offered now, nil where that is nothing, and a channel that is
// closed when that may have changed.
func (l *Library) Offer(agent contract.ID, r *agentv1.ReleaseReport) (*agentv1.ReleaseOffer, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r == nil {
		return nil, l.changed
	}
	for _, k := range l.kept {
		if k.manifest.Name == release.AgentName && l.fits(k, agent, r.GetSystem(), r.GetArchitecture(), r) {
			return k.offer, l.changed
		}
	}
	return nil, l.changed
}

// OfferPlugins is what an agent is offered of plug-ins now, by their names. The channel of
// Offer is closed when that may have changed, too.
func (l *Library) OfferPlugins(agent contract.ID, p *agentv1.PluginReleases) []*agentv1.ReleaseOffer {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p == nil {
		return nil
	}
	has := make(map[string]*agentv1.ReleaseReport)
	for _, r := range p.GetPlugins() {
		has[r.GetName()] = r
	}
	best := make(map[string]*agentv1.ReleaseOffer)
	for _, k := range l.kept {
		name := k.manifest.Name
		if name != release.AgentName && best[name] == nil && l.fits(k, agent, p.GetSystem(), p.GetArchitecture(), has[name]) {
			best[name] = k.offer
		}
	}
	var offers []*agentv1.ReleaseOffer
	for _, name := range slices.Sorted(maps.Keys(best)) {
		offers = append(offers, best[name])
	}
	return offers
}

// fits tells whether an agent is to be offered a release, by how it stands with that name's.
func (l *Library) fits(k *kept, agent contract.ID, system, architecture string, r *agentv1.ReleaseReport) bool {
	m := k.manifest
	return m.System == system && m.Architecture == architecture &&
		m.Number > r.GetNumber() && m.Number > r.GetRefused() &&
		(r.GetNumber() >= m.Least || r.GetNumber() == 0 && m.Name != release.AgentName) && // a plug-in that is not there replaces none
		k.wave.Held == "" && inWave(agent, k.file, l.config.Shares[k.wave.Step])
}

// inWave tells whether an agent is among the first so many percent. Each release has another
// order.
func inWave(agent contract.ID, file string, percent int) bool {
	hash := sha256.Sum256(append(agent[:], file...))
	return binary.BigEndian.Uint64(hash[:])%100 < uint64(percent)
}

// Report takes in how an agent stands with releases of itself.
func (l *Library) Report(agent contract.ID, r *agentv1.ReleaseReport) {
	if r != nil {
		l.report(agent, release.AgentName, r.GetSystem(), r.GetArchitecture(), r)
	}
}

// ReportPlugins takes in how an agent stands with releases of plug-ins.
func (l *Library) ReportPlugins(agent contract.ID, p *agentv1.PluginReleases) {
	for _, r := range p.GetPlugins() {
		if r.GetName() != release.AgentName {
			l.report(agent, r.GetName(), p.GetSystem(), p.GetArchitecture(), r)
		}
	}
}

func (l *Library) report(agent contract.ID, name, system, architecture string, r *agentv1.ReleaseReport) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.kept {
		m := k.manifest
		if m.Name != name || m.System != system || m.Architecture != architecture {
			continue
		}
		switch m.Number {
		case r.GetNumber():
			// One on trial counts once it is well.
			if r.GetState() != agentv1.ReleaseState_RELEASE_STATE_TRIAL {
				k.healthy[agent] = true
				delete(k.failed, agent)
			}
		case r.GetRefused():
			if !k.failed[agent] {
				l.log.Error("a release is not well on an agent, which went back to the one before", "release", m, "agent", agent, "reason", r.GetMessage())
			}
			k.failed[agent], k.reason = true, r.GetMessage()
			delete(k.healthy, agent)
			l.judge(k)
		}
	}
}

// judge holds a release with which too many are not well.
func (l *Library) judge(k *kept) {
	failed := len(k.failed) - k.wave.Forgiven
	if k.wave.Held != "" || failed <= 0 || 100*len(k.healthy) >= l.config.HealthyPercent*(len(k.healthy)+failed) {
		return
	}
	k.wave.Held = fmt.Sprintf("it is not well on %d of %d agents that tried it; for one: %s", len(k.failed), len(k.failed)+len(k.healthy), k.reason)
	l.log.Error("a release is held", "release", k.manifest, "reason", k.wave.Held)
	if err := l.save(); err != nil {
		l.log.Error("it is held until the Manager stops, and perhaps not longer", "error", err)
	}
}

// Tend widens the waves until the context ends.
func (l *Library) Tend(ctx context.Context) {
	tick := time.NewTicker(min(tendPeriod, l.config.Period))
	defer tick.Stop()
	for {
		l.widen()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (l *Library) widen() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, widened := l.config.Now(), false
	for _, k := range l.kept {
		if k.wave.Held == "" && k.wave.Step < len(l.config.Shares)-1 && now.Sub(k.wave.Since) >= l.config.Period {
			k.wave.Step++
			k.wave.Since, widened = now, true
			l.log.Info("a release is offered to more agents", "release", k.manifest, "percent", l.config.Shares[k.wave.Step])
		}
	}
	if !widened {
		return
	}
	if err := l.save(); err != nil {
		l.log.Error("the wave goes on, and may begin again after a restart", "error", err)
	}
}

// ErrNotOffered says that no release that is kept has a program of that hash.
var ErrNotOffered = errors.New("releases: there is no such release; it may have been withdrawn")

// Piece reads a part of a program; an empty one lies behind its end.
func (l *Library) Piece(sum []byte, offset uint64, most uint32) ([]byte, error) {
	l.mu.Lock()
	i := slices.IndexFunc(l.kept, func(k *kept) bool { return k.manifest.SHA256 == hex.EncodeToString(sum) && k.wave.Held == "" })
	if i < 0 {
		l.mu.Unlock()
		return nil, ErrNotOffered
	}
	k := l.kept[i]
	header := k.header
	l.mu.Unlock()
	if offset >= uint64(k.manifest.Size) {
		return nil, nil
	}
	f, err := os.Open(filepath.Join(l.config.Dir, k.file))
	if err == nil {
		defer f.Close()
		err = l.verify(k, f, header)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errDamaged) {
		l.spoilt(k, err)
	}
	if err != nil {
		return nil, fmt.Errorf("releases: %w", err)
	}
	piece := make([]byte, min(uint64(max(1, most)), maxPiece, uint64(k.manifest.Size)-offset))
	if _, err := f.ReadAt(piece, header+int64(offset)); err != nil {
		return nil, fmt.Errorf("releases: %w", err)
	}
	return piece, nil
}

// errDamaged says that a file is not what was signed.
var errDamaged = errors.New("its file on this Manager's disk is not what was signed")

// verify looks once whether a file's program is the signed one, and again when the file has
// changed: agents would refuse it only after they have fetched all of it, each again and again.
func (l *Library) verify(k *kept, f *os.File, header int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	now := stamp{info.Size(), info.ModTime()}
	l.verifying.Lock()
	defer l.verifying.Unlock()
	l.mu.Lock()
	sound := k.sound == now
	l.mu.Unlock()
	if sound {
		return nil
	}
	if err := release.CopyProgram(io.Discard, io.NewSectionReader(f, header, k.manifest.Size+1), k.manifest); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	k.sound = now
	return nil
}

// spoilt holds a release whose file cannot be served, unless it was withdrawn meanwhile.
func (l *Library) spoilt(k *kept, damage error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Contains(l.kept, k) || k.wave.Held != "" {
		return
	}
	k.wave.Held, k.wave.Damaged = damage.Error(), true
	l.log.Error("a release is held until it is added again", "release", k.manifest, "reason", damage)
	if err := l.save(); err != nil {
		l.log.Error("it is held until the Manager stops, and perhaps not longer", "error", err)
	}
}
