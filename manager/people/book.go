package people

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/internal/durable"
)

// ErrInvalid says that what was told of a person makes no sense.
var ErrInvalid = errors.New("people: not a person")

// ErrUnknown says that a principal is not in the book.
var ErrUnknown = errors.New("people: unknown principal")

// ErrTooMany says that no more can be remembered. Who is known already goes on.
var ErrTooMany = errors.New("people: too many")

// What agents say is believed, so what one of them can make the book remember for ever
// has bounds: far above what a machine has people, and a site.
const (
	maxPerAgent   = 4096    // aliases of an agent, and principals drawn for it
	maxPrincipals = 500_000 // of all agents
	maxChanges    = 100_000 // written for an agent since the book was opened
)

// Kinds of identifiers, the surest first.
const (
	kindSID = iota
	kindUPN
	kindDomainUser
	kindUser
	kinds
)

// tag is the keyed hash of an identifier.
type tag [sha256.Size]byte

type principal struct {
	id        contract.ID
	key       [chacha20poly1305.KeySize]byte
	tags      [kinds]tag // zero where not known
	sealed    *usagev1.SealedName
	nameTag   tag // of the name that sealed holds
	announced tag // of the name that the log holds
	deposited bool
}

type aliasKey struct{ agent, alias contract.ID }

// line is one line of the book: what became known of one principal, or the
// book's secret.
type line struct {
	Secret    []byte   `json:"secret,omitempty"`
	Principal []byte   `json:"principal,omitempty"`
	Key       []byte   `json:"key,omitempty"`
	Tags      [][]byte `json:"tags,omitempty"`
	Sealed    []byte   `json:"sealed,omitempty"`
	NameTag   []byte   `json:"name_tag,omitempty"`
	Announced []byte   `json:"announced,omitempty"`
	Deposited bool     `json:"deposited,omitempty"`
	Agent     []byte   `json:"agent,omitempty"`
	Alias     []byte   `json:"alias,omitempty"`
}

// Book is the book of principals. Its methods may be called from any goroutine.
type Book struct {
	log  *slog.Logger
	file *durable.Journal[line]

	mu         sync.Mutex
	secret     []byte
	principals map[contract.ID]*principal
	byTag      [kinds]map[tag]*principal
	aliases    map[aliasKey]contract.ID
	bindings   map[contract.ID][][]byte // by agent; durable ones only
	drawn      map[contract.ID]int      // principals, by the agent that told of them first
	changes    map[contract.ID]int      // lines written, by agent
	pending    chan struct{}            // there may be keys to deposit
}

// Open reads the book, making an empty one where there is none. A torn last line
// is cut off, since nothing was promised for it; a line damaged by something else
// is skipped and reported, since the people on it merely get new principals.
func Open(path string, log *slog.Logger) (*Book, error) {
	b := &Book{
		log:        log.With("part", "people"),
		principals: make(map[contract.ID]*principal),
		aliases:    make(map[aliasKey]contract.ID),
		bindings:   make(map[contract.ID][][]byte),
		drawn:      make(map[contract.ID]int),
		changes:    make(map[contract.ID]int),
		pending:    make(chan struct{}, 1),
	}
	for k := range b.byTag {
		b.byTag[k] = make(map[tag]*principal)
	}
	file, damaged, err := durable.OpenJournal(path, b.replay)
	if err != nil {
		return nil, fmt.Errorf("people: %w", err)
	}
	b.file = file
	if damaged > 0 {
		b.log.Error("lines of the book of people are damaged: people on them get new principals", "file", path, "lines", damaged)
	}
	if b.secret == nil {
		b.secret = make([]byte, sha256.Size)
		_, _ = rand.Read(b.secret)
		if err := file.Commit(line{Secret: b.secret}); err != nil {
			return nil, errors.Join(fmt.Errorf("people: %w", err), file.Close())
		}
	}
	b.stir()
	return b, nil
}

// Close writes what is not written yet and closes the book.
func (b *Book) Close() error { return b.file.Close() }

// replay takes one line of the file into the book.
func (b *Book) replay(l line) error {
	if l.Secret != nil {
		b.secret = l.Secret
		return nil
	}
	id, err := contract.IDFrom(l.Principal)
	if err != nil {
		return err
	}
	p := b.principals[id]
	if p == nil {
		if len(l.Key) != chacha20poly1305.KeySize {
			return fmt.Errorf("principal %s has no key", id)
		}
		p = &principal{id: id, key: [chacha20poly1305.KeySize]byte(l.Key)}
		b.principals[id] = p
	}
	if len(l.Tags) > kinds {
		return fmt.Errorf("%d tags", len(l.Tags))
	}
	for kind, t := range l.Tags {
		if len(t) == len(tag{}) {
			b.learn(p, kind, tag(t))
		}
	}
	if l.Sealed != nil {
		var sealed usagev1.SealedName
		if err := proto.Unmarshal(l.Sealed, &sealed); err != nil || len(l.NameTag) != len(tag{}) {
			return errors.New("a sealed name cannot be read")
		}
		p.sealed, p.nameTag = &sealed, tag(l.NameTag)
	}
	if len(l.Announced) == len(tag{}) {
		p.announced = tag(l.Announced)
	}
	p.deposited = p.deposited || l.Deposited
	if l.Agent != nil {
		agent, err := contract.IDFrom(l.Agent)
		if err != nil {
			return err
		}
		alias, err := contract.IDFrom(l.Alias)
		if err != nil {
			return err
		}
		b.bind(agent, alias, id)
		if l.Key != nil {
			b.drawn[agent]++
		}
	}
	return nil
}

func (b *Book) learn(p *principal, kind int, t tag) {
	p.tags[kind] = t
	b.byTag[kind][t] = p
}

// bind makes an alias known to Principal and Bindings.
func (b *Book) bind(agent, alias, id contract.ID) {
	key := aliasKey{agent, alias}
	before, known := b.aliases[key]
	b.aliases[key] = id
	raw, err := proto.Marshal(&usagev1.PrincipalBinding{PrincipalAlias: alias[:], PrincipalId: id[:]})
	if err != nil {
		return
	}
	var next [][]byte
	for _, binding := range b.bindings[agent] {
		if known && bytes.Contains(binding, alias[:]) && bytes.Contains(binding, before[:]) {
			continue
		}
		next = append(next, binding)
	}
	b.bindings[agent] = append(next, raw)
}

// Bind binds an alias of an agent to the principal of a person, drawing a new one
// for a person never seen. All of it is durable when it returns. name is the
// person's sealed name where the log does not have it yet; named says that now it
// has, and does not wait. ErrTooMany where the agent, or all of them, told of too many.
func (b *Book) Bind(_ context.Context, agent contract.ID, person *agentv1.Person) (contract.ID, *usagev1.SealedName, func(), error) {
	alias, err := contract.IDFrom(person.GetPrincipalAlias())
	if err != nil {
		return contract.ID{}, nil, nil, fmt.Errorf("%w: principal_alias: %v", ErrInvalid, err)
	}
	identifiers := identify(person)
	if identifiers == [kinds]string{} {
		return contract.ID{}, nil, nil, fmt.Errorf("%w: neither a security identifier nor a user name is given", ErrInvalid)
	}
	b.mu.Lock()
	if err := b.room(agent, alias); err != nil {
		b.mu.Unlock()
		return contract.ID{}, nil, nil, err
	}
	p, l, err := b.find(agent, identifiers)
	if err != nil {
		b.mu.Unlock()
		return contract.ID{}, nil, nil, err
	}
	changed := l.Key != nil || l.Tags != nil
	l.Principal = p.id[:]
	if text := fullName(person); text != "" {
		if t := b.tagOf(kinds, text); t != p.nameTag {
			sealed, err := p.seal(&usagev1.SealedName{Subject: &usagev1.SealedName_Person{Person: true}, PrincipalId: p.id[:]}, text)
			if err != nil {
				b.mu.Unlock()
				return contract.ID{}, nil, nil, err
			}
			p.sealed, p.nameTag = sealed, t
			if l.Sealed, err = proto.Marshal(sealed); err != nil {
				b.mu.Unlock()
				return contract.ID{}, nil, nil, err
			}
			l.NameTag = t[:]
			changed = true
		}
	}
	if b.aliases[aliasKey{agent, alias}] != p.id {
		l.Agent, l.Alias = agent[:], alias[:]
		changed = true
	}
	if changed {
		b.file.Write(l)
		b.changes[agent]++
	}
	name, nameTag := p.sealed, p.nameTag
	if name != nil && p.announced == p.nameTag {
		name = nil
	}
	b.mu.Unlock()

	// Also where nothing is new: another goroutine may be writing what we found.
	if err := b.file.Sync(); err != nil {
		return contract.ID{}, nil, nil, fmt.Errorf("people: %w", err)
	}
	b.mu.Lock()
	if l.Agent != nil {
		b.bind(agent, alias, p.id)
	}
	b.mu.Unlock()
	b.stir()
	return p.id, name, func() { b.announced(p, nameTag) }, nil
}

// room says why an agent may tell nothing new; nil while it may.
func (b *Book) room(agent, alias contract.ID) error {
	_, known := b.aliases[aliasKey{agent, alias}]
	switch {
	case !known && len(b.bindings[agent]) >= maxPerAgent:
		return fmt.Errorf("%w: this agent has named %d people already; records of further ones carry no name", ErrTooMany, maxPerAgent)
	case b.changes[agent] >= maxChanges:
		return fmt.Errorf("%w: this agent has changed what it tells of people %d times since the Manager started", ErrTooMany, maxChanges)
	}
	return nil
}

func (b *Book) announced(p *principal, nameTag tag) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p.announced = nameTag
	// If this line is lost, the name is announced once more.
	b.file.Write(line{Principal: p.id[:], Announced: nameTag[:]})
}

// find is the principal with these identifiers and what has to be written of it.
// The surest identifier decides; a weaker one may lead to a principal only if no
// surer one contradicts, since names are given to other people in time.
func (b *Book) find(agent contract.ID, identifiers [kinds]string) (*principal, line, error) {
	var tags [kinds]tag
	for kind, text := range identifiers {
		if text != "" {
			tags[kind] = b.tagOf(kind, text)
		}
	}
	var found *principal
	for kind := range kinds {
		candidate := b.byTag[kind][tags[kind]]
		if tags[kind] == (tag{}) || candidate == nil {
			continue
		}
		contradicted := false
		for surer := range kind {
			contradicted = contradicted || tags[surer] != (tag{}) && candidate.tags[surer] != (tag{}) && candidate.tags[surer] != tags[surer]
		}
		if !contradicted {
			found = candidate
			break
		}
	}
	var l line
	if found == nil {
		switch {
		case b.drawn[agent] >= maxPerAgent:
			return nil, l, fmt.Errorf("%w: this agent has told of %d new people already", ErrTooMany, maxPerAgent)
		case len(b.principals) >= maxPrincipals:
			return nil, l, fmt.Errorf("%w: the book of this Manager holds %d people already", ErrTooMany, maxPrincipals)
		}
		b.drawn[agent]++
		found = &principal{id: newID()}
		_, _ = rand.Read(found.key[:])
		b.principals[found.id] = found
		l.Key = found.key[:]
	}
	for kind, t := range tags {
		if t != (tag{}) && (found.tags[kind] != t || b.byTag[kind][t] != found) {
			b.learn(found, kind, t)
			if l.Tags == nil {
				l.Tags = make([][]byte, kinds)
			}
			l.Tags[kind] = bytes.Clone(t[:])
		}
	}
	return found, l, nil
}

func identify(p *agentv1.Person) [kinds]string {
	var out [kinds]string
	clean := func(s string) string { return strings.ToLower(strings.TrimSpace(s)) }
	sid, upn, domain, user := clean(p.GetSid()), clean(p.GetUserPrincipalName()), clean(p.GetDomain()), clean(p.GetUserName())
	out[kindSID], out[kindUPN] = sid, upn
	switch {
	case user != "" && domain != "":
		out[kindDomainUser] = domain + `\` + user
	case user != "":
		out[kindUser] = user
	}
	return out
}

func fullName(p *agentv1.Person) string {
	for _, s := range []string{p.GetDisplayName(), p.GetUserName(), p.GetUserPrincipalName()} {
		if s = strings.TrimSpace(s); s != "" {
			return s
		}
	}
	return ""
}

func (b *Book) tagOf(kind int, text string) tag {
	h := hmac.New(sha256.New, b.secret)
	h.Write([]byte{byte(kind)})
	h.Write([]byte(text))
	return tag(h.Sum(nil))
}

// Principal is who an alias of an agent stands for.
func (b *Book) Principal(agent, alias contract.ID) (contract.ID, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	id, ok := b.aliases[aliasKey{agent, alias}]
	return id, ok
}

// Bindings are the agent's aliases as serialized PrincipalBinding messages, which
// must not be changed.
func (b *Book) Bindings(agent contract.ID) [][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bindings[agent]
}

// PersonName is the sealed name of a principal, nil where none is known.
func (b *Book) PersonName(id contract.ID) *usagev1.SealedName {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.principals[id]; p != nil {
		return p.sealed
	}
	return nil
}

// SealDocument seals a document's name under the principal's key.
func (b *Book) SealDocument(id, document contract.ID, name string) (*usagev1.SealedName, error) {
	b.mu.Lock()
	p := b.principals[id]
	b.mu.Unlock()
	if p == nil {
		return nil, ErrUnknown
	}
	return p.seal(&usagev1.SealedName{Subject: &usagev1.SealedName_DocumentId{DocumentId: document[:]}, PrincipalId: id[:]}, name)
}

// Open reads a sealed name.
func (b *Book) Open(name *usagev1.SealedName) (string, error) {
	id, err := contract.IDFrom(name.GetPrincipalId())
	if err != nil {
		return "", err
	}
	b.mu.Lock()
	p := b.principals[id]
	b.mu.Unlock()
	if p == nil {
		return "", ErrUnknown
	}
	aead, err := chacha20poly1305.NewX(p.key[:])
	if err != nil {
		return "", err
	}
	sealed := name.GetSealed()
	if len(sealed) < aead.NonceSize() {
		return "", errors.New("people: a sealed name is too short")
	}
	plain, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], contract.SealedNameData(name))
	if err != nil {
		return "", fmt.Errorf("people: open a name: %w", err)
	}
	return string(plain), nil
}

// seal fills in the sealed bytes of a name whose other fields are set.
func (p *principal) seal(name *usagev1.SealedName, text string) (*usagev1.SealedName, error) {
	aead, err := chacha20poly1305.NewX(p.key[:])
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(text)+aead.Overhead())
	_, _ = rand.Read(nonce)
	name.Sealed = aead.Seal(nonce, nonce, []byte(text), contract.SealedNameData(name))
	return name, nil
}

// Count is how many principals the book has, and how many keys the platform does
// not have yet.
func (b *Book) Count() (principals, undeposited int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.principals {
		if !p.deposited {
			undeposited++
		}
	}
	return len(b.principals), undeposited
}

func newID() contract.ID {
	var id contract.ID
	_, _ = rand.Read(id[:])
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}
