package release_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"

	"pgregory.net/rapid"

	agentrelease "github.com/cetrus/cetrus/agent/release"
	"github.com/cetrus/cetrus/proto/release"
)

// vendor makes releases.
type vendor struct {
	keys    release.Keys
	private ed25519.PrivateKey
}

func newVendor(t testing.TB) vendor {
	t.Helper()
	public, private, err := release.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return vendor{release.Keys{"vendor": public}, private}
}

// program is what a release of a number runs.
func program(number uint64) []byte { return fmt.Appendf(nil, "#!/bin/sh\necho %d\n", number) }

func (v vendor) release(t testing.TB, number, least uint64) release.Signed {
	t.Helper()
	sum := sha256.Sum256(program(number))
	signed, err := release.Sign(release.Manifest{
		Name: release.AgentName, Version: fmt.Sprint("1.", number), Number: number, Least: least, System: "linux", Architecture: "amd64",
		Size: int64(len(program(number))), SHA256: hex.EncodeToString(sum[:]),
	}, "vendor", v.private)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func (v vendor) config() agentrelease.Config {
	return agentrelease.Config{Keys: v.keys, Installed: 1, System: "linux", Architecture: "amd64"}
}

func (v vendor) open(t testing.TB, disk agentrelease.Disk) *agentrelease.Store {
	t.Helper()
	s, trouble, err := agentrelease.Open(v.config(), disk)
	if err != nil || trouble != nil {
		t.Fatal(trouble, err)
	}
	return s
}

func stage(t testing.TB, s *agentrelease.Store, signed release.Signed, bytes []byte) error {
	t.Helper()
	m, err := s.Judge(signed)
	if err != nil {
		return err
	}
	if _, err := s.Fetched(m); err != nil {
		t.Fatal(err)
	}
	if err := s.Take(m, bytes); err != nil {
		t.Fatal(err)
	}
	return s.Stage(signed)
}

func next(t testing.TB, s *agentrelease.Store) agentrelease.Plan {
	t.Helper()
	p, err := s.Next()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// both runs a test on a real folder and on the simulated one.
func both(t *testing.T, test func(*testing.T, agentrelease.Disk)) {
	t.Helper()
	t.Run("folder", func(t *testing.T) {
		t.Parallel()
		disk, err := agentrelease.Dir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		test(t, disk)
	})
	t.Run("simulated", func(t *testing.T) {
		t.Parallel()
		test(t, newDisk())
	})
}

func TestReleaseIsTriedThenCurrent(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, disk agentrelease.Disk) {
		v := newVendor(t)
		s := v.open(t, disk)
		if p := next(t, s); p.Program != "" || p.Trial {
			t.Fatalf("an empty folder runs %+v", p)
		}
		if err := stage(t, s, v.release(t, 2, 0), program(2)); err != nil {
			t.Fatal(err)
		}
		s = v.open(t, disk)
		if p := next(t, s); !p.Trial || p.Manifest.Number != 2 {
			t.Fatalf("not tried: %+v", p)
		}
		if err := v.open(t, disk).Confirm(); err != nil {
			t.Fatal(err)
		}
		s = v.open(t, disk)
		if p := next(t, s); p.Trial || p.Manifest.Number != 2 || s.Number() != 2 {
			t.Fatalf("not current: %+v", p)
		}
		// The program of an installation that came later is newer.
		config := v.config()
		config.Installed = 3
		s, _, err := agentrelease.Open(config, disk)
		if err != nil {
			t.Fatal(err)
		}
		if p := next(t, s); p.Program != "" || s.Number() != 3 {
			t.Fatalf("the older release runs: %+v", p)
		}
	})
}

func TestRefusedUntilANewerOne(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, disk agentrelease.Disk) {
		v := newVendor(t)
		s := v.open(t, disk)
		for _, good := range []uint64{2} {
			if err := stage(t, s, v.release(t, good, 0), program(good)); err != nil {
				t.Fatal(err)
			}
			next(t, s)
			if err := s.Confirm(); err != nil {
				t.Fatal(err)
			}
		}
		if err := stage(t, s, v.release(t, 5, 0), program(5)); err != nil {
			t.Fatal(err)
		}
		next(t, s)
		if err := s.Refuse("it ended"); err != nil {
			t.Fatal(err)
		}
		s = v.open(t, disk)
		if p := next(t, s); p.Trial || p.Manifest.Number != 2 {
			t.Fatalf("the one before does not run: %+v", p)
		}
		for number, want := range map[uint64]string{1: "older", 4: "refused", 5: "refused"} {
			if _, err := s.Judge(v.release(t, number, 0)); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("number %d: %v", number, err)
			}
		}
		if _, err := s.Judge(v.release(t, 2, 0)); !errors.Is(err, agentrelease.ErrRuns) {
			t.Error(err)
		}
		if _, err := s.Judge(v.release(t, 7, 3)); err == nil || !strings.Contains(err.Error(), "replaces") {
			t.Error(err)
		}
		if err := stage(t, s, v.release(t, 6, 2), program(6)); err != nil {
			t.Error(err)
		}
	})
}

func TestOnlyWhatWasSignedIsStaged(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, disk agentrelease.Disk) {
		v, stranger := newVendor(t), newVendor(t)
		s := v.open(t, disk)
		for name, bad := range map[string][]byte{"truncated": program(2)[:5], "tampered": append([]byte("x"), program(2)[1:]...), "longer": append(program(2), 'x')} {
			if err := stage(t, s, v.release(t, 2, 0), bad); err == nil {
				t.Errorf("a %s program is staged", name)
			}
		}
		if err := stage(t, s, stranger.release(t, 2, 0), program(2)); err == nil {
			t.Error("a stranger's release is staged")
		}
		tampered := v.release(t, 2, 0)
		tampered.Manifest = bytes.Replace(tampered.Manifest, []byte(`"number":2`), []byte(`"number":9`), 1)
		if err := stage(t, s, tampered, program(2)); err == nil {
			t.Error("a tampered manifest is staged")
		}
		if p := next(t, v.open(t, disk)); p.Program != "" {
			t.Fatalf("%+v runs", p)
		}
		// What is changed after it was staged does not run either.
		if err := stage(t, s, v.release(t, 2, 0), program(2)); err != nil {
			t.Fatal(err)
		}
		m, _ := s.Trial()
		if err := disk.Append(m.SHA256, []byte("more")); err != nil {
			t.Fatal(err)
		}
		if p := next(t, v.open(t, disk)); p.Program != "" {
			t.Fatalf("%+v runs", p)
		}
	})
}

func TestTrialsThatAreCutShortEnd(t *testing.T) {
	t.Parallel()
	v, disk := newVendor(t), newDisk()
	if err := stage(t, v.open(t, disk), v.release(t, 2, 0), program(2)); err != nil {
		t.Fatal(err)
	}
	for range 10 { // the service manager stops it: that is not the release's fault
		s := v.open(t, disk)
		if p := next(t, s); !p.Trial {
			t.Fatalf("%+v", p)
		}
		if err := s.CutShort(); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if p := next(t, v.open(t, disk)); !p.Trial {
			t.Fatalf("%+v", p)
		}
	}
	if p := next(t, v.open(t, disk)); p.Trial || p.Program != "" {
		t.Fatalf("a release that never gets well is tried for ever: %+v", p)
	}
}

func TestUnreadableFolderRunsTheInstalledProgram(t *testing.T) {
	t.Parallel()
	disk := newDisk()
	if err := disk.Append("runs.json", []byte("{")); err != nil {
		t.Fatal(err)
	}
	s, trouble, err := agentrelease.Open(newVendor(t).config(), disk)
	if err != nil || trouble == nil {
		t.Fatal(trouble, err)
	}
	if p := next(t, s); p.Program != "" {
		t.Fatalf("%+v", p)
	}
}

// TestPowerCutAtAnyMoment cuts the power at a step of a life of upgrades and looks at what
// runs then: the installed program or one that was signed, whole; never an older one than
// was confirmed, never one that was refused.
func TestPowerCutAtAnyMoment(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	signed := map[uint64]release.Signed{}
	for n := uint64(2); n <= 6; n++ {
		signed[n] = v.release(t, n, 0)
	}
	rapid.Check(t, func(t *rapid.T) {
		disk := newDisk()
		var confirmed, refused uint64
		for life := range rapid.IntRange(1, 6).Draw(t, "lives") {
			disk.cutAfter(rapid.IntRange(0, 40).Draw(t, fmt.Sprint("cut", life)))
			func() {
				defer func() {
					if p := recover(); p != nil && p != errPower { //nolint:errorlint // It is that very value.
						panic(p)
					}
				}()
				s, trouble, err := agentrelease.Open(v.config(), disk)
				if err != nil || trouble != nil {
					t.Fatal(trouble, err)
				}
				for {
					plan, err := s.Next()
					if err != nil {
						t.Fatal(err)
					}
					check(t, disk, plan, confirmed, refused)
					if err := s.Tidy(); err != nil {
						t.Fatal(err)
					}
					check(t, disk, plan, confirmed, refused)
					if plan.Trial {
						if rapid.Bool().Draw(t, "well") {
							if err := s.Confirm(); err != nil {
								t.Fatal(err)
							}
							confirmed = plan.Manifest.Number
						} else if err := s.Refuse("broken"); err != nil {
							t.Fatal(err)
						} else {
							refused = plan.Manifest.Number
						}
						continue
					}
					number := rapid.Uint64Range(2, 6).Draw(t, "offer")
					m, err := s.Judge(signed[number])
					if err != nil {
						if rapid.Bool().Draw(t, "enough") {
							return
						}
						continue
					}
					if at, err := s.Fetched(m); err != nil {
						t.Fatal(err)
					} else if at < m.Size {
						if err := s.Take(m, program(number)[at:]); err != nil {
							t.Fatal(err)
						}
					}
					if err := s.Stage(signed[number]); err != nil && !errors.As(err, new(*release.RefusedError)) {
						t.Fatal(err)
					}
				}
			}()
			disk.powerCut(t)
		}
		disk.cutAfter(1 << 30)
		s, trouble, err := agentrelease.Open(v.config(), disk)
		if err != nil || trouble != nil {
			t.Fatal(trouble, err)
		}
		plan, err := s.Next()
		if err != nil {
			t.Fatal(err)
		}
		check(t, disk, plan, confirmed, refused)
	})
}

func check(t *rapid.T, disk *simulated, plan agentrelease.Plan, confirmed, refused uint64) {
	if plan.Program == "" {
		if confirmed > 1 {
			t.Fatalf("the installed program runs, though number %d was confirmed: %s", confirmed, plan.Trouble)
		}
		return
	}
	number := plan.Manifest.Number
	if got := disk.files[plan.Program]; got == nil || !bytes.Equal(got.data, program(number)) || !got.runnable {
		t.Fatalf("number %d is not whole", number)
	}
	if number < confirmed || number <= refused && plan.Trial {
		t.Fatalf("number %d runs, %d was confirmed, %d refused", number, confirmed, refused)
	}
}

var errPower = errors.New("power")

// simulated is a disk whose power can be cut.
type simulated struct {
	files, durable map[string]*file
	pending        []func(map[string]*file) // changes of names since the last SyncDir
	left           int
}

type file struct {
	data     []byte
	synced   int
	runnable bool
}

func newDisk() *simulated {
	return &simulated{files: map[string]*file{}, durable: map[string]*file{}, left: 1 << 30}
}

func (d *simulated) cutAfter(steps int) { d.left = steps }

func (d *simulated) step() {
	if d.left--; d.left < 0 {
		panic(errPower)
	}
}

// name changes names now, and for good at the next SyncDir.
func (d *simulated) name(change func(map[string]*file)) {
	change(d.files)
	d.pending = append(d.pending, change)
}

// powerCut loses what was not synced, or some of it.
func (d *simulated) powerCut(t *rapid.T) {
	for _, change := range d.pending[:rapid.IntRange(0, len(d.pending)).Draw(t, "names kept")] {
		change(d.durable)
	}
	d.pending, d.files = nil, map[string]*file{}
	for name, f := range d.durable {
		keep := rapid.IntRange(f.synced, len(f.data)).Draw(t, "bytes kept")
		data := bytes.Clone(f.data[:keep])
		if keep > f.synced && rapid.Bool().Draw(t, "zeroes") {
			clear(data[f.synced:])
		}
		kept := &file{data, keep, f.runnable}
		d.files[name], d.durable[name] = kept, kept
	}
}

func (d *simulated) Path(name string) string { return name }

func (d *simulated) Open(name string) (io.ReadCloser, error) {
	f := d.files[name]
	if f == nil {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(f.data)), nil
}

func (d *simulated) Append(name string, data []byte) error {
	d.step()
	f := d.files[name]
	if f == nil {
		f = &file{}
		d.name(func(files map[string]*file) { files[name] = f })
	}
	for _, b := range [][]byte{data[:len(data)/2], data[len(data)/2:]} {
		d.step()
		f.data = append(f.data, b...)
	}
	return nil
}

func (d *simulated) Sync(name string) error {
	d.step()
	f := d.files[name]
	if f == nil {
		return fs.ErrNotExist
	}
	f.synced = len(f.data)
	return nil
}

func (d *simulated) Runnable(name string) error {
	d.step()
	d.files[name].runnable = true
	return nil
}

func (d *simulated) Rename(from, to string) error {
	d.step()
	if d.files[from] == nil {
		return fs.ErrNotExist
	}
	d.name(func(files map[string]*file) {
		if f := files[from]; f != nil {
			files[to] = f
			delete(files, from)
		}
	})
	return nil
}

func (d *simulated) Remove(name string) error {
	d.step()
	if d.files[name] == nil {
		return fs.ErrNotExist
	}
	d.name(func(files map[string]*file) { delete(files, name) })
	return nil
}

func (d *simulated) SyncDir() error {
	d.step()
	for _, change := range d.pending {
		change(d.durable)
	}
	d.pending = nil
	return nil
}

func (d *simulated) Sizes() (map[string]int64, error) {
	sizes := map[string]int64{}
	for name, f := range d.files {
		sizes[name] = int64(len(f.data))
	}
	return sizes, nil
}
