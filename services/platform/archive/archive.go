package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrGap means that segments are missing, or stand in the place of others.
var ErrGap = errors.New("archive: segments are missing or were replaced")

// Archive is the chain of segments of one stream.
type Archive struct {
	store   Store
	keys    *Keys
	stream  string
	created time.Time
}

// New names the archive of a stream that was made at a moment: the same name made anew is another
// stream. It asks the store nothing.
func New(store Store, keys *Keys, stream string, created time.Time) *Archive {
	return &Archive{store: store, keys: keys, stream: stream, created: created.UTC()}
}

func (a *Archive) prefix() string { return fmt.Sprintf("%s/%016x/", a.stream, a.created.UnixNano()) }

func (a *Archive) segmentName(branch int, first uint64) string {
	return fmt.Sprintf("%s%06d/%020d.segment", a.prefix(), branch, first)
}

func (a *Archive) forkName(branch int) string {
	return fmt.Sprintf("%s%06d/begins.fork", a.prefix(), branch)
}

// fork says where a branch begins.
type fork struct {
	Stream  string    `json:"stream"`
	Created time.Time `json:"created"`
	Branch  int       `json:"branch"`
	// Parent is the branch that it goes on from, of the stream that was made at From.
	Parent int       `json:"parent"`
	From   time.Time `json:"from"`
	// At is the last sequence that the branch takes from its parent.
	At   uint64    `json:"at"`
	Made time.Time `json:"made"`
}

// part is what counts of a segment.
type part struct {
	of     *Archive
	name   string
	branch int
	first  uint64
	// until is the last sequence that counts of it; 0: as far as it reaches.
	until uint64
}

// line is the chain as it counts now, the oldest first, and the branch that goes on.
type line struct {
	parts  []part
	branch int
}

// line lists the store. It opens no segment.
func (a *Archive) line(ctx context.Context) (line, error) {
	branches, top, err := a.branches(ctx)
	if err != nil {
		return line{}, err
	}
	parts, err := a.joined(ctx, branches, top, 0)
	return line{parts: parts, branch: top}, err
}

// branches are all parts by their branch, and the number of the last one.
func (a *Archive) branches(ctx context.Context) (branches map[int][]part, top int, err error) {
	names, err := a.store.List(ctx, a.prefix())
	if err != nil {
		return nil, 0, err
	}
	branches = make(map[int][]part)
	for _, name := range names {
		dir, file := path.Split(strings.TrimPrefix(name, a.prefix()))
		branch, err := strconv.Atoi(strings.TrimSuffix(dir, "/"))
		if err != nil {
			continue // not ours
		}
		top = max(top, branch)
		digits, isSegment := strings.CutSuffix(file, ".segment")
		first, err := strconv.ParseUint(digits, 10, 64)
		if !isSegment || err != nil || first == 0 {
			continue
		}
		branches[branch] = append(branches[branch], part{of: a, name: name, branch: branch, first: first})
	}
	return branches, top, nil
}

// joined are the parts of a branch and of what it has come from, up to a sequence; 0: all.
func (a *Archive) joined(ctx context.Context, branches map[int][]part, branch int, until uint64) ([]part, error) {
	var parts []part
	begins := uint64(0)
	if branch > 0 {
		f, err := a.loadFork(ctx, branch)
		if err != nil {
			return nil, err
		}
		begins = f.At + 1
		if until > 0 { // of a branch that begins beyond, nothing counts
			f.At = min(f.At, until)
		}
		from, theirs := a, branches
		if !f.From.Equal(a.created) {
			from = New(a.store, a.keys, a.stream, f.From)
			if theirs, _, err = from.branches(ctx); err != nil {
				return nil, err
			}
		}
		if f.At > 0 {
			if parts, err = from.joined(ctx, theirs, f.Parent, f.At); err != nil {
				return nil, err
			}
		}
	}
	own := branches[branch] // in the order of their names, which is that of sequences
	if len(parts) > 0 && len(own) > 0 && own[0].first != begins {
		return nil, fmt.Errorf("%w: %s is the first of its branch, which begins at %d", ErrGap, own[0].name, begins)
	}
	for _, p := range own {
		if until > 0 && p.first > until {
			break
		}
		p.until = until
		if len(parts) > 0 {
			parts[len(parts)-1].until = p.first - 1
		}
		parts = append(parts, p)
	}
	return parts, nil
}

func (a *Archive) loadFork(ctx context.Context, branch int) (fork, error) {
	var f fork
	content, err := a.store.Load(ctx, a.forkName(branch))
	if err != nil {
		return f, fmt.Errorf("archive: where branch %d of %s begins: %w", branch, a.stream, err)
	}
	s, err := parse(kindFork, content)
	if err == nil {
		err = s.open(a.keys, func([]byte) error { return nil })
	}
	if err == nil {
		err = json.Unmarshal(s.header, &f)
	}
	if err != nil {
		return f, fmt.Errorf("archive: %s: %w", a.forkName(branch), err)
	}
	if f.Stream != a.stream || !f.Created.Equal(a.created) || f.Branch != branch || f.Parent < 0 || f.From.Equal(f.Created) && f.Parent >= branch || f.From.After(f.Created) {
		return f, fmt.Errorf("%w: %s is of another place", ErrDamaged, a.forkName(branch))
	}
	return f, nil
}

// Fork has the archive go on behind a sequence: what it holds beyond that is kept, and read no
// more. It is for a stream that was put back and ends there. It returns the number of the new
// branch.
func (a *Archive) Fork(ctx context.Context, at uint64, now time.Time) (int, error) {
	l, err := a.line(ctx)
	if err != nil {
		return 0, err
	}
	return a.fork(ctx, l.branch+1, a, at, now)
}

// GoOnFrom has the archive, which is empty, go on behind a sequence of that of another stream of
// the same name: of the one that this was copied from.
func (a *Archive) GoOnFrom(ctx context.Context, from *Archive, at uint64, now time.Time) error {
	_, err := a.fork(ctx, 1, from, at, now)
	return err
}

func (a *Archive) fork(ctx context.Context, branch int, from *Archive, at uint64, now time.Time) (int, error) {
	l, err := from.line(ctx)
	if err != nil {
		return 0, err
	}
	_, last, err := from.Range(ctx)
	if err != nil {
		return 0, err
	}
	f := fork{Stream: a.stream, Created: a.created, Branch: branch, Parent: l.branch, From: from.created, At: min(at, last), Made: now.UTC()}
	header, err := json.Marshal(f)
	if err != nil {
		return 0, fmt.Errorf("archive: %w", err)
	}
	content, _ := a.keys.seal(kindFork, header, nil)
	return f.Branch, createOwn(ctx, a.store, a.forkName(f.Branch), content)
}

// load reads the segment of a part and checks that it is what its place says.
func (a *Archive) load(ctx context.Context, p part) (*segment, error) {
	content, err := a.store.Load(ctx, p.name)
	if err != nil {
		return nil, err
	}
	s, err := parseSegment(content)
	if err != nil {
		return nil, fmt.Errorf("archive: %s: %w", p.name, err)
	}
	switch {
	case s.Stream != a.stream || !s.Created.Equal(p.of.created) || s.Branch != p.branch || s.First != p.first:
		return nil, fmt.Errorf("%w: %s was made for another place", ErrGap, p.name)
	case s.Last < p.until:
		return nil, fmt.Errorf("%w: behind %s, which ends at %d, the next begins at %d", ErrGap, p.name, s.Last, p.until+1)
	}
	return s, nil
}

// tail is where the archive ends.
type tail struct {
	branch   int
	last     uint64
	ended    time.Time // zero where the last message that counts is within the segment
	previous string
}

// tail reads the last segment.
func (a *Archive) tail(ctx context.Context) (tail, error) {
	l, err := a.line(ctx)
	t := tail{branch: l.branch}
	if err != nil || len(l.parts) == 0 {
		return t, err
	}
	p := l.parts[len(l.parts)-1]
	s, err := a.load(ctx, p)
	if err != nil {
		return t, err
	}
	// Its header is believed from here on.
	if err := s.messages(a.keys, func(Message) error { return nil }); err != nil {
		return t, fmt.Errorf("archive: %s: %w", p.name, err)
	}
	t.last, t.ended, t.previous = s.Last, s.Ended, s.sealed.digest.String()
	if p.until > 0 && p.until < s.Last {
		t.last, t.ended = p.until, time.Time{}
	}
	return t, nil
}

// Range is the first and the last sequence that the archive speaks for; zeros where it is empty.
func (a *Archive) Range(ctx context.Context) (first, last uint64, err error) {
	l, err := a.line(ctx)
	if err != nil || len(l.parts) == 0 {
		return 0, 0, err
	}
	p := l.parts[len(l.parts)-1]
	s, err := a.load(ctx, p)
	if err != nil {
		return 0, 0, err
	}
	last = s.Last
	if p.until > 0 {
		last = min(last, p.until)
	}
	return l.parts[0].first, last, nil
}

// Read calls take with the messages from a sequence on, in their order, as far as the archive
// reaches, and returns the last sequence that it speaks for; 0 where it does not hold the one that
// was asked for. Each segment's digest, seals and place in the chain are checked before.
func (a *Archive) Read(ctx context.Context, from uint64, take func(Message) error) (reached uint64, err error) {
	return a.read(ctx, from, func(_ part, s *segment, until uint64) error {
		return s.messages(a.keys, func(m Message) error {
			if m.Sequence < from || m.Sequence > until {
				return nil
			}
			return take(m)
		})
	})
}

// read calls take with the segments from the one on that holds a sequence, and with how far each counts.
func (a *Archive) read(ctx context.Context, from uint64, take func(part, *segment, uint64) error) (reached uint64, err error) {
	l, err := a.line(ctx)
	if err != nil {
		return 0, err
	}
	begins := slices.IndexFunc(l.parts, func(p part) bool { return p.first > from })
	switch {
	case begins == 0 || len(l.parts) == 0:
		return 0, nil
	case begins < 0:
		begins = len(l.parts)
	}
	var before *segment
	for _, p := range l.parts[begins-1:] {
		s, err := a.load(ctx, p)
		if err != nil {
			return reached, err
		}
		if before != nil && s.Previous != before.sealed.digest.String() {
			return reached, fmt.Errorf("%w: %s does not follow the one before", ErrGap, p.name)
		}
		until := s.Last
		if p.until > 0 {
			until = min(until, p.until)
		}
		if until >= from {
			if err := take(p, s, until); err != nil {
				return reached, fmt.Errorf("archive: %s: %w", p.name, err)
			}
			reached = until
		}
		before = s
	}
	return reached, nil
}
