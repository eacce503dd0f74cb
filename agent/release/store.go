package release

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/cetrus/cetrus/proto/release"
)

const (
	runsFile   = "runs.json"
	partSuffix = ".part"
	// maxAttempts is how often a trial may be cut short before the release is refused.
	maxAttempts = 3
)

// Disk is one folder. What Append wrote is durable after Sync, names are after SyncDir.
type Disk interface {
	// Open reads a file.
	Open(name string) (io.ReadCloser, error)
	// Append writes behind the end of a file, which is made where it is missing.
	Append(name string, data []byte) error
	Sync(name string) error
	// Runnable lets a file be run.
	Runnable(name string) error
	Rename(from, to string) error
	Remove(name string) error
	SyncDir() error
	// Sizes are the files and how long each is.
	Sizes() (map[string]int64, error)
	// Path is where a file is for whoever starts it.
	Path(name string) string
}

// runs is what runs.json says.
type runs struct {
	// Current runs; nil: the installed program does.
	Current *release.Signed `json:"current,omitempty"`
	// Trial is to be tried next.
	Trial *trial `json:"trial,omitempty"`
	// Highest is the greatest number that ever was current.
	Highest uint64 `json:"highest,omitempty"`
	// Refused is the greatest number that was refused, and Reason why, for people.
	Refused uint64 `json:"refused,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

type trial struct {
	release.Signed

	// Attempts that were begun.
	Attempts int `json:"attempts"`
}

// Config says whose releases are taken.
type Config struct {
	// Keys are trusted; nobody else's releases run.
	Keys release.Keys
	// Name is what they are releases of; empty: of the agent.
	Name string
	// Installed is the number of the program that was installed.
	Installed uint64
	// System and Architecture of this machine.
	System, Architecture string
}

// Store is a folder of releases. It belongs to one goroutine of one process: while a release
// is on trial, to its guardian.
type Store struct {
	config Config
	disk   Disk
	runs   runs
}

// Plan is what to start.
type Plan struct {
	// Program is its path; empty: the installed program.
	Program string
	// Manifest is of the release; zero where that is the installed program.
	Manifest release.Manifest
	// Trial: it has not shown yet that it is well.
	Trial bool
	// Trouble is why something else does not run, for people.
	Trouble string
}

// Open reads what a folder holds. One that cannot be read is as good as empty, since the
// installed program can always run; trouble says so.
func Open(config Config, disk Disk) (_ *Store, trouble, err error) {
	config.Name = cmp.Or(config.Name, release.AgentName)
	s := &Store{config: config, disk: disk}
	text, err := read(disk, runsFile, 1<<20)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, nil, nil
	case err != nil:
		return nil, nil, fmt.Errorf("release: %w", err)
	}
	if err := json.Unmarshal(text, &s.runs); err != nil {
		s.runs = runs{}
		return s, fmt.Errorf("release: %s cannot be read, so the installed program runs: %w", disk.Path(runsFile), err), nil
	}
	return s, nil, nil
}

func read(disk Disk, name string, most int64) ([]byte, error) {
	f, err := disk.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// save replaces runs.json.
func (s *Store) save(r runs) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("release: %w", err)
	}
	const temporary = runsFile + ".new"
	if err := s.disk.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release: %w", err)
	}
	for _, step := range []func() error{
		func() error { return s.disk.Append(temporary, text) },
		func() error { return s.disk.Sync(temporary) },
		func() error { return s.disk.Rename(temporary, runsFile) },
		s.disk.SyncDir,
	} {
		if err := step(); err != nil {
			return fmt.Errorf("release: say what runs: %w", err)
		}
	}
	s.runs = r
	return nil
}

// open verifies what was signed for this machine.
func (s *Store) open(signed release.Signed) (release.Manifest, error) {
	m, err := signed.Open(s.config.Keys)
	if err == nil && (m.Name != s.config.Name || m.System != s.config.System || m.Architecture != s.config.Architecture) {
		err = &release.RefusedError{Reason: fmt.Sprintf("%v is no release of %s for %s/%s", m, s.config.Name, s.config.System, s.config.Architecture)}
	}
	return m, err
}

// Number is that of the release that runs, or would if nothing were on trial.
func (s *Store) Number() uint64 {
	number := s.config.Installed
	if s.runs.Current != nil {
		if m, err := s.open(*s.runs.Current); err == nil {
			number = max(number, m.Number)
		}
	}
	return number
}

// Refused is the greatest number that was refused, with the reason.
func (s *Store) Refused() (number uint64, reason string) { return s.runs.Refused, s.runs.Reason }

// Judge verifies an offer and tells whether it is to be taken; the error says why not.
func (s *Store) Judge(signed release.Signed) (release.Manifest, error) {
	m, err := s.open(signed)
	if err != nil {
		return m, err
	}
	no := func(format string, args ...any) error {
		return &release.RefusedError{Reason: fmt.Sprintf(format, args...)}
	}
	switch running := s.Number(); {
	case m.Number == running:
		return m, ErrRuns
	case m.Number < max(running, s.runs.Highest):
		return m, no("%v is older than number %d, which has run here", m, max(running, s.runs.Highest))
	case m.Number <= s.runs.Refused:
		return m, no("%v is not newer than number %d, which was refused: %s", m, s.runs.Refused, s.runs.Reason)
	case running < m.Least && (running > 0 || m.Name == release.AgentName): // a plug-in that is not there replaces none
		return m, no("%v replaces number %d or greater, and %d runs", m, m.Least, running)
	}
	return m, nil
}

// ErrRuns says that an offered release runs already.
var ErrRuns = errors.New("release: it runs already")

// Fetched is how much of a release is there; all of it where it has been staged.
func (s *Store) Fetched(m release.Manifest) (int64, error) {
	sizes, err := s.disk.Sizes()
	if err != nil {
		return 0, fmt.Errorf("release: %w", err)
	}
	for name := range sizes {
		// One is fetched at a time.
		if strings.HasSuffix(name, partSuffix) && name != m.SHA256+partSuffix {
			if err := s.disk.Remove(name); err != nil {
				return 0, fmt.Errorf("release: %w", err)
			}
		}
	}
	return sizes[m.SHA256+partSuffix], nil
}

// Take keeps the next piece of a release.
func (s *Store) Take(m release.Manifest, piece []byte) error {
	if err := s.disk.Append(m.SHA256+partSuffix, piece); err != nil {
		return fmt.Errorf("release: keep what was fetched: %w", err)
	}
	return nil
}

// Stage puts a release that has been fetched on trial from the next start. One that is not
// what was signed is removed.
func (s *Store) Stage(signed release.Signed) error {
	m, err := s.Judge(signed)
	if err != nil {
		return err
	}
	part := m.SHA256 + partSuffix
	if err := s.verify(part, m); err != nil {
		if removeErr := s.disk.Remove(part); removeErr != nil && !errors.Is(removeErr, fs.ErrNotExist) {
			return errors.Join(err, removeErr)
		}
		return err
	}
	for _, step := range []func() error{
		func() error { return s.disk.Runnable(part) },
		func() error { return s.disk.Sync(part) },
		func() error { return s.disk.Rename(part, m.SHA256) },
		s.disk.SyncDir,
	} {
		if err := step(); err != nil {
			return fmt.Errorf("release: put %v in its place: %w", m, err)
		}
	}
	next := s.runs
	next.Trial = &trial{Signed: signed}
	return s.save(next)
}

func (s *Store) verify(name string, m release.Manifest) error {
	f, err := s.disk.Open(name)
	if err != nil {
		return fmt.Errorf("release: %w", err)
	}
	defer f.Close()
	return release.CopyProgram(io.Discard, f, m)
}

// Next decides what to start. It counts the attempt where that is a trial.
func (s *Store) Next() (Plan, error) {
	if t := s.runs.Trial; t != nil {
		m, err := s.Judge(t.Signed)
		if err == nil && t.Attempts >= maxAttempts {
			err = fmt.Errorf("%d trials were cut short", t.Attempts)
		}
		if err == nil {
			err = s.verify(m.SHA256, m)
		}
		if err == nil {
			next := s.runs
			next.Trial = &trial{t.Signed, t.Attempts + 1}
			return Plan{Program: s.disk.Path(m.SHA256), Manifest: m, Trial: true}, s.save(next)
		}
		if err := s.Refuse(err.Error()); err != nil {
			return Plan{}, err
		}
	}
	if s.runs.Current == nil {
		return Plan{Trouble: s.runs.Reason}, nil
	}
	m, err := s.open(*s.runs.Current)
	if err == nil && m.Number <= s.config.Installed {
		return Plan{}, nil // what was installed since is newer
	}
	if err == nil {
		err = s.verify(m.SHA256, m)
	}
	if err != nil {
		// It may be fetched anew: its number is remembered as one that has run.
		next := s.runs
		next.Current, next.Reason = nil, fmt.Sprintf("the release that ran cannot be started, so the installed program runs: %v", err)
		return Plan{Trouble: next.Reason}, s.save(next)
	}
	return Plan{Program: s.disk.Path(m.SHA256), Manifest: m}, nil
}

// Trial is the release on trial.
func (s *Store) Trial() (m release.Manifest, there bool) {
	if s.runs.Trial == nil {
		return m, false
	}
	m, err := s.open(s.runs.Trial.Signed)
	return m, err == nil
}

// Confirm makes the release on trial the current one.
func (s *Store) Confirm() error {
	if s.runs.Trial == nil {
		return errors.New("release: nothing is on trial")
	}
	signed := s.runs.Trial.Signed
	m, err := s.open(signed)
	if err != nil {
		return err
	}
	return s.save(runs{Current: &signed, Highest: max(s.runs.Highest, m.Number), Refused: s.runs.Refused, Reason: s.runs.Reason})
}

// Refuse ends the trial: that number, and those below, are not taken again.
func (s *Store) Refuse(reason string) error {
	next := s.runs
	if m, there := s.Trial(); there {
		next.Refused = max(next.Refused, m.Number)
		reason = m.String() + ": " + reason
	}
	next.Trial, next.Reason = nil, reason
	return s.save(next)
}

// CutShort takes an attempt back that somebody ended who has nothing against the release.
func (s *Store) CutShort() error {
	next := s.runs
	if next.Trial == nil || next.Trial.Attempts == 0 {
		return nil
	}
	next.Trial = &trial{next.Trial.Signed, next.Trial.Attempts - 1}
	return s.save(next)
}

// Tidy removes programs that nothing names.
func (s *Store) Tidy() error {
	sizes, err := s.disk.Sizes()
	if err != nil {
		return fmt.Errorf("release: %w", err)
	}
	var named []string
	for _, signed := range []*release.Signed{s.runs.Current, s.trialSigned()} {
		if signed == nil {
			continue
		}
		if m, err := signed.Open(s.config.Keys); err == nil {
			named = append(named, m.SHA256)
		}
	}
	for name := range sizes {
		if sum, err := hex.DecodeString(name); err != nil || len(sum) != 32 || slices.Contains(named, name) {
			continue
		}
		if err := s.disk.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("release: %w", err)
		}
	}
	return nil
}

func (s *Store) trialSigned() *release.Signed {
	if s.runs.Trial == nil {
		return nil
	}
	return &s.runs.Trial.Signed
}
