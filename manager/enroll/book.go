package enroll

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/enrollment"

	"github.com/cetrus/cetrus/manager/internal/durable"
)

const (
	// MaxUses is for how many agents a token may be.
	MaxUses = 100_000
	// MaxValid is for how long.
	MaxValid = 366 * 24 * time.Hour
	maxLabel = 100
	// maxTokens are kept; those that are over make room.
	maxTokens = 1000
	// maxCopies is how many agents may enrol by one agent's certificate, and by theirs.
	maxCopies = 64
)

// Token is what is known of a token, which is not the token itself.
type Token struct {
	ID string `json:"id"`
	// Platform is the token's id at the platform, where it was made there.
	Platform string    `json:"platform_id,omitempty"`
	Hash     []byte    `json:"hash,omitempty"`
	Label    string    `json:"label,omitempty"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`
	Uses     int       `json:"uses"`
	Used     int       `json:"used"`
	Revoked  time.Time `json:"revoked,omitzero"`
}

// over says why a token admits nobody any more; empty where it does.
func (t *Token) over(now time.Time) string {
	switch {
	case !t.Revoked.IsZero():
		return "was revoked"
	case now.After(t.Expires):
		return "has expired on " + t.Expires.UTC().Format(time.RFC3339)
	case t.Used >= t.Uses:
		return fmt.Sprintf("is used up, by %d agents", t.Used)
	}
	return ""
}

// Agent is an agent that this Manager has signed for.
type Agent struct {
	ID contract.ID `json:"-"`
	// Text is the id as it is written.
	Text     string    `json:"agent_id"`
	HostName string    `json:"host_name,omitempty"`
	Enrolled time.Time `json:"enrolled"`
	// Token or CopyOf is what admitted it: a token's id, or the agent whose certificate came
	// with a copied disk. Neither: it shows a certificate that another Manager of the site signed.
	Token  string `json:"token,omitempty"`
	CopyOf string `json:"copy_of,omitempty"`
	// Key is the SHA-256 of the key that was signed for last.
	Key     []byte    `json:"key"`
	Until   time.Time `json:"valid_until"`
	Revoked time.Time `json:"revoked,omitzero"`
	// Since is from when on certificates of it count: those before are of a key that was lost.
	Since time.Time `json:"since,omitzero"`
	// Readmitted: it may enrol again, with another key.
	Readmitted bool `json:"readmitted,omitempty"`
	// Order is when the platform decided on it last, of what was carried out here, in milliseconds
	// of UTC. Barred: that keeps it out, whatever is said here.
	Order  int64 `json:"order,omitempty"`
	Barred bool  `json:"barred,omitempty"`
}

// entry is one line of the book; the last of a token, or an agent, counts.
type entry struct {
	Token *Token `json:"token,omitempty"`
	Agent *Agent `json:"agent,omitempty"`
	// Followed is up to where the platform's decisions are carried out.
	Followed *followed `json:"followed,omitempty"`
}

// followed is a position in the platform's log, and its time.
type followed struct {
	Position uint64 `json:"position"`
	Millis   int64  `json:"millis"`
}

// refusedError is why somebody does not get a certificate, for them to read.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return e.text }

func refuse(format string, args ...any) error { return &refusedError{fmt.Sprintf(format, args...)} }

// errRevoked refuses an agent for good.
var errRevoked = refuse("this agent was revoked by an administrator: readmitted, where that was said (at the platform, or by `cetrus-manager agent readmit`), it enrols anew with a new token")

// book keeps tokens and agents.
type book struct {
	mu     sync.Mutex
	file   *durable.Journal[entry]
	tokens map[string]*Token
	agents map[contract.ID]*Agent
	lines  int
	// followed is up to where the platform's decisions are carried out.
	followed followed
	// changed has room for one: that there is something new to tell the platform.
	changed chan struct{}
}

// longBook is how many lines a book has before it is worth to write it anew.
const longBook = 1000

// openBook reads the book. A damaged line is told: whom it was about is not known any more,
// so that a token on it admits nobody, and a revocation on it is lost.
func openBook(path string, log *slog.Logger) (*book, error) {
	b := &book{tokens: make(map[string]*Token), agents: make(map[contract.ID]*Agent), changed: make(chan struct{}, 1)}
	file, damaged, err := durable.OpenJournal(path, b.replay)
	if err != nil {
		return nil, err
	}
	if damaged > 0 {
		log.Error("lines of the book of enrolled agents are damaged: look whether tokens and revoked agents are as they should be", "file", path, "lines", damaged)
	}
	b.file = file
	return b, b.shorten(path)
}

// shorten writes the book anew where most of its lines do not count any more.
func (b *book) shorten(path string) error {
	if b.lines < longBook || b.lines < 4*(len(b.tokens)+len(b.agents)) {
		return nil
	}
	beside := path + ".new"
	if err := os.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, b.file.Close())
	}
	next, _, err := durable.OpenJournal(beside, func(entry) error { return nil })
	if err != nil {
		return errors.Join(err, b.file.Close())
	}
	next.Write(entry{Followed: &b.followed})
	for _, t := range b.tokens {
		next.Write(entry{Token: t})
	}
	for _, a := range b.agents {
		next.Write(entry{Agent: a})
	}
	if err := errors.Join(next.Close(), b.file.Close()); err != nil {
		return err
	}
	if err := os.Rename(beside, path); err != nil {
		return err
	}
	b.file, _, err = durable.OpenJournal(path, func(entry) error { return nil })
	return err
}

func (b *book) replay(e entry) error {
	b.lines++
	switch {
	case e.Token != nil:
		b.tokens[e.Token.ID] = e.Token
	case e.Agent != nil:
		id, err := contract.ParseID(e.Agent.Text)
		if err != nil {
			return err
		}
		e.Agent.ID = id
		b.agents[id] = e.Agent
	case e.Followed != nil:
		b.followed = *e.Followed
	default:
		return errors.New("it is about nobody")
	}
	return nil
}

// keep makes changes durable, and only then true.
func (b *book) keep(changes ...entry) error {
	for _, c := range changes {
		b.file.Write(c)
	}
	if err := b.file.Sync(); err != nil {
		return fmt.Errorf("enroll: write the book: %w", err)
	}
	for _, c := range changes {
		_ = b.replay(c) // made here, of an agent with an id
		if c.Followed != nil || c.Token != nil && c.Token.Platform != "" {
			select {
			case b.changed <- struct{}{}:
			default: // it is known already
			}
		}
	}
	return nil
}

func (b *book) createToken(secret enrollment.Token, label string, uses int, valid time.Duration, now time.Time) (Token, error) {
	switch {
	case uses < 1 || uses > MaxUses:
		return Token{}, refuse("a token is for 1 to %d agents, not for %d", MaxUses, uses)
	case valid <= 0 || valid > MaxValid:
		return Token{}, refuse("a token is valid for more than 0 and at most %v, not for %v", MaxValid, valid)
	case len(label) > maxLabel || strings.ContainsFunc(label, unicode.IsControl):
		return Token{}, refuse("a token's label is a line of at most %d bytes", maxLabel)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.room(now) {
		return Token{}, refuse("there are %d tokens: revoke some", len(b.tokens))
	}
	hash := sha256.Sum256(secret.Credential())
	t := Token{ID: hex.EncodeToString(secret.ID[:]), Hash: hash[:], Label: label, Created: now.UTC(), Expires: now.Add(valid).UTC(), Uses: uses}
	return t, b.keep(entry{Token: &t})
}

// room makes room for one more token, where there can be any. Until it expires one of the platform's
// is kept: it would be told of again, as one that nobody has used.
func (b *book) room(now time.Time) bool {
	if len(b.tokens) >= maxTokens {
		maps.DeleteFunc(b.tokens, func(_ string, t *Token) bool {
			return t.over(now) != "" && (t.Platform == "" || now.After(t.Expires))
		})
	}
	return len(b.tokens) < maxTokens
}

func (b *book) revokeToken(id string, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.tokens[id]
	if known, err := contract.ParseID(id); t == nil && err == nil { // as the platform writes it
		if of := b.tokens[hex.EncodeToString(known[:enrollment.IDBytes])]; of != nil && of.Platform == known.String() {
			t = of
		}
	}
	if t == nil {
		return refuse("there is no token %q; `cetrus-manager token list` lists them", id)
	}
	changed := *t
	changed.Revoked = now.UTC()
	return b.keep(entry{Token: &changed})
}

// listTokens are all that are known, the newest first, without their hashes.
func (b *book) listTokens() []Token {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]Token, 0, len(b.tokens))
	for _, t := range b.tokens {
		shown := *t
		shown.Hash = nil
		list = append(list, shown)
	}
	slices.SortFunc(list, func(a, c Token) int { return cmp.Or(c.Created.Compare(a.Created), cmp.Compare(a.ID, c.ID)) })
	return list
}

func (b *book) listAgents() []Agent {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]Agent, 0, len(b.agents))
	for _, a := range b.agents {
		list = append(list, *a)
	}
	slices.SortFunc(list, func(a, c Agent) int { return cmp.Or(cmp.Compare(a.HostName, c.HostName), cmp.Compare(a.Text, c.Text)) })
	return list
}

// known finds the token that somebody shows. Which is wrong with one that is not known is
// not told.
func (b *book) known(shown enrollment.Token) (*Token, error) {
	t := b.tokens[hex.EncodeToString(shown.ID[:])]
	hash := sha256.Sum256(shown.Credential())
	if t == nil || subtle.ConstantTimeCompare(hash[:], t.Hash) != 1 {
		return nil, refuse("this Manager does not know the enrolment token: it is of another Manager, or was removed; `cetrus-manager token create` makes another")
	}
	return t, nil
}

// admit writes down that an agent is to get a certificate for a key by a token. One that
// comes back with the same key, since the answer was lost, is admitted once.
func (b *book) admit(shown enrollment.Token, id contract.ID, key []byte, host string, until, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, err := b.known(shown)
	if err != nil {
		return err
	}
	was := b.agents[id]
	if was != nil && was.Revoked.IsZero() && was.Token == t.ID && bytes.Equal(was.Key, key) {
		return nil
	}
	if why := t.over(now); why != "" {
		return refuse("the enrolment token %s: `cetrus-manager token create` makes another", why)
	}
	if err := b.mayBegin(was); err != nil {
		return err
	}
	used := *t
	used.Used++
	return b.keep(entry{Token: &used}, entry{Agent: &Agent{
		ID: id, Text: id.String(), HostName: host, Enrolled: now.UTC(), Token: t.ID, Key: key, Until: until.UTC(), Since: begins(was, now), Order: orderOn(was),
	}})
}

// admitCopy is admit for who shows the certificate of the agent whose copy it is.
func (b *book) admitCopy(of, id contract.ID, key []byte, host string, until, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.agents[id]
	if was != nil && was.Revoked.IsZero() && was.CopyOf == of.String() && bytes.Equal(was.Key, key) {
		return nil
	}
	if err := b.mayBegin(was); err != nil {
		return err
	}
	first, copies := b.first(of), 0
	for _, a := range b.agents {
		if a.CopyOf != "" && b.first(a.ID) == first {
			copies++
		}
	}
	if copies >= maxCopies {
		return refuse("%d agents are copies of agent %s already: enrol this one with a token, and make images clean before they are copied (`cetrus-agent generalize`)", copies, first)
	}
	return b.keep(entry{Agent: &Agent{
		ID: id, Text: id.String(), HostName: host, Enrolled: now.UTC(), CopyOf: of.String(), Key: key, Until: until.UTC(), Since: begins(was, now), Order: orderOn(was),
	}})
}

// first is the agent that an agent is a copy of, be it over other copies.
func (b *book) first(id contract.ID) contract.ID {
	for range maxCopies { // no line of copies is longer, and one of readmitted agents may be a ring
		a := b.agents[id]
		if a == nil || a.CopyOf == "" {
			break
		}
		of, err := contract.ParseID(a.CopyOf)
		if err != nil {
			break
		}
		id = of
	}
	return id
}

// begins is from when on certificates of an agent count that is admitted now: of one that
// was readmitted, no earlier ones do. A certificate's time has no parts of a second.
func begins(was *Agent, now time.Time) time.Time {
	if was == nil {
		return time.Time{}
	}
	return now.UTC().Truncate(time.Second)
}

// orderOn is the order on an agent that was carried out last.
func orderOn(was *Agent) int64 {
	if was == nil {
		return 0
	}
	return was.Order
}

// mayBegin tells whether an id is free, or was set free.
func (b *book) mayBegin(was *Agent) error {
	switch {
	case was == nil || was.Readmitted:
		return nil
	case !was.Revoked.IsZero():
		return errRevoked
	}
	return refuse("agent %s is enrolled already, with another key: where that one has lost its key, `cetrus-manager agent readmit %s` lets it enrol again", was.Text, was.Text)
}

// renew writes down another key of an agent that has proved who it is.
func (b *book) renew(id contract.ID, key []byte, host string, until, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := Agent{ID: id, Text: id.String(), Enrolled: now.UTC()}
	if was := b.agents[id]; was != nil {
		if !was.Revoked.IsZero() {
			return errRevoked
		}
		next = *was
	}
	next.Key, next.Until = key, until.UTC()
	if host != "" {
		next.HostName = host
	}
	return b.keep(entry{Agent: &next})
}

// revoked tells whether an agent is, or its certificates of that time are.
func (b *book) revoked(id contract.ID, issued time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.agents[id]
	return a != nil && (!a.Revoked.IsZero() || issued.Before(a.Since))
}

// revoke ends an agent, and with copies all that enrolled by its certificate, and by theirs.
// Who is not in the book, as enrolled by another Manager of the site, is written into it.
func (b *book) revoke(id contract.ID, copies bool, now time.Time) (ended []Agent, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var changes []entry
	for _, id := range b.withCopies(id, copies) {
		changed := b.agent(id)
		changed.Revoked, changed.Readmitted = now.UTC(), false
		ended, changes = append(ended, changed), append(changes, entry{Agent: &changed})
	}
	return ended, b.keep(changes...)
}

// agent is what is known of an agent, who may not be in the book.
func (b *book) agent(id contract.ID) Agent {
	if was := b.agents[id]; was != nil {
		return *was
	}
	return Agent{ID: id, Text: id.String()}
}

// withCopies is an agent, and with copies all that enrolled by its certificate, and by theirs.
func (b *book) withCopies(id contract.ID, copies bool) []contract.ID {
	all := []contract.ID{id}
	for i := 0; copies && i < len(all); i++ {
		for other, a := range b.agents {
			if a.CopyOf == all[i].String() && !slices.Contains(all, other) {
				all = append(all, other)
			}
		}
	}
	return all
}

// readmit lets an agent enrol again under its id, with another key.
func (b *book) readmit(id contract.ID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.agents[id]
	if was == nil {
		return refuse("there is no agent %s here; `cetrus-manager agent list` lists them", id)
	}
	if was.Barred {
		return refuse("agent %s was revoked at the platform: readmit it there", was.Text)
	}
	changed := *was
	changed.Readmitted = true
	return b.keep(entry{Agent: &changed})
}

func (b *book) close() error { return b.file.Close() }
