package wayland

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// The objects and opcodes of the core protocol that a connection itself uses.
const (
	displayID = 1

	displaySync        = 0 // request: callback
	displayGetRegistry = 1 // request: registry
	displayError       = 0 // event: object, code, text
	displayDeleteID    = 1 // event: id

	registryBind         = 0 // request: name, interface, version, id
	registryGlobal       = 0 // event: name, interface, version
	registryGlobalRemove = 1 // event: name

	// firstServerID is the first id of those that the compositor gives out.
	firstServerID = 0xFF000000
)

// writeTimeout is how long a compositor may take to take a request.
const writeTimeout = 2 * time.Second

// Handler takes the events of one object: their opcode and arguments. Handlers of one
// connection run one at a time, in the order in which the events were sent.
type Handler func(opcode uint16, args *Args)

// Global is something that a compositor offers.
type Global struct {
	Name      uint32
	Interface string
	Version   uint32
}

// Conn is a connection to a compositor.
type Conn struct {
	conn    net.Conn
	allowed []string

	reading sync.WaitGroup
	done    chan struct{}
	err     error // why it ended; read after done is closed

	writing sync.Mutex

	mu       sync.Mutex
	handlers map[uint32]Handler
	next     uint32
	free     []uint32
	registry uint32
	globals  map[uint32]Global
}

// NewConn speaks over a connection, which it closes in the end. Of what the
// compositor offers, only interfaces named in allowed can be seen and bound.
func NewConn(conn net.Conn, allowed ...string) (*Conn, error) {
	c := &Conn{
		conn: conn, allowed: allowed, done: make(chan struct{}), next: displayID + 1,
		handlers: make(map[uint32]Handler), globals: make(map[uint32]Global),
	}
	c.handlers[displayID] = c.onDisplay
	c.reading.Go(c.read)
	registry, err := c.Create(c.onRegistry, func(id uint32) *Builder {
		return NewMessage(displayID, displayGetRegistry).Uint(id)
	})
	if err != nil {
		c.Close()
		return nil, err
	}
	c.mu.Lock()
	c.registry = registry
	c.mu.Unlock()
	return c, nil
}

// Close ends the connection and waits for its reader.
func (c *Conn) Close() {
	_ = c.conn.Close()
	c.reading.Wait()
}

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err tells why the connection ended, once Done is closed.
func (c *Conn) Err() error { return c.err }

// Globals lists what the compositor offers of what is allowed, by name.
func (c *Conn) Globals() []Global {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]Global, 0, len(c.globals))
	for _, g := range c.globals {
		list = append(list, g)
	}
	slices.SortFunc(list, func(a, b Global) int { return int(int64(a.Name) - int64(b.Name)) })
	return list
}

// Bind makes an object of a global.
func (c *Conn) Bind(g Global, version uint32, h Handler) (object uint32, err error) {
	if !slices.Contains(c.allowed, g.Interface) {
		return 0, fmt.Errorf("wayland: %s is not among what this connection may bind", g.Interface)
	}
	c.mu.Lock()
	registry := c.registry
	c.mu.Unlock()
	return c.Create(h, func(id uint32) *Builder {
		return NewMessage(registry, registryBind).Uint(g.Name).String(g.Interface).Uint(version).Uint(id)
	})
}

// Create sends a request that makes an object, whose events h takes.
func (c *Conn) Create(h Handler, request func(id uint32) *Builder) (object uint32, err error) {
	// Ids are to arrive in order, so nobody else may send in between.
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	if n := len(c.free); n > 0 {
		object, c.free = c.free[n-1], c.free[:n-1]
	} else {
		object, c.next = c.next, c.next+1
	}
	c.handlers[object] = h
	c.mu.Unlock()
	return object, c.send(request(object))
}

// Adopt takes the events of an object that the compositor has made. It is to be called
// by the handler of the event that announces the object.
func (c *Conn) Adopt(object uint32, h Handler) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if object >= firstServerID {
		c.handlers[object] = h
	}
}

// Request sends a request that makes no object.
func (c *Conn) Request(b *Builder) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.send(b)
}

func (c *Conn) send(b *Builder) error {
	message, err := b.Bytes()
	if err != nil {
		_ = c.conn.Close() // an object was announced that will not be made
		return err
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := c.conn.Write(message); err != nil {
		_ = c.conn.Close() // what was sent of the message leaves the other end out of step
		return fmt.Errorf("wayland: the compositor does not listen: %w", err)
	}
	return nil
}

// Forget drops the handler of an object that the compositor has made, after a request
// that destroys it.
func (c *Conn) Forget(object uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.handlers, object)
}

// Sync waits until the compositor has answered everything that was asked before, and
// has told everything that it knew by then.
func (c *Conn) Sync(ctx context.Context) error {
	answered := make(chan struct{})
	once := sync.OnceFunc(func() { close(answered) })
	_, err := c.Create(func(uint16, *Args) { once() }, func(id uint32) *Builder {
		return NewMessage(displayID, displaySync).Uint(id)
	})
	if err != nil {
		return c.why(err)
	}
	select {
	case <-answered:
		return nil
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// why prefers what the compositor has said in the end to how that showed in a request.
// A request that failed has closed the connection, so the reader ends.
func (c *Conn) why(failed error) error {
	<-c.done
	if errors.Is(c.err, net.ErrClosed) {
		return failed
	}
	return c.err
}

func (c *Conn) read() {
	defer close(c.done)
	defer c.conn.Close()
	r := bufio.NewReader(c.conn)
	for {
		m, err := ReadMessage(r)
		if err != nil {
			c.err = fmt.Errorf("wayland: the compositor has gone: %w", err)
			return
		}
		c.mu.Lock()
		h := c.handlers[m.Object]
		c.mu.Unlock()
		if h == nil {
			continue // of an object that was given up a moment ago
		}
		args := m.Args()
		h(m.Opcode, args)
		if err := args.Err(); err != nil {
			c.err = fmt.Errorf("event %d of object %d: %w", m.Opcode, m.Object, err)
			return
		}
		if c.err != nil {
			return
		}
	}
}

func (c *Conn) onDisplay(opcode uint16, args *Args) {
	switch opcode {
	case displayError:
		object, code, text := args.Uint(), args.Uint(), args.String()
		c.err = fmt.Errorf("wayland: the compositor refuses what was asked of object %d: error %d, %q", object, code, text)
	case displayDeleteID:
		id := args.Uint()
		c.mu.Lock()
		defer c.mu.Unlock()
		if _, ours := c.handlers[id]; ours && id > displayID && id < firstServerID {
			delete(c.handlers, id)
			c.free = append(c.free, id)
		}
	}
}

func (c *Conn) onRegistry(opcode uint16, args *Args) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch opcode {
	case registryGlobal:
		g := Global{Name: args.Uint(), Interface: args.String(), Version: args.Uint()}
		if args.Err() == nil && slices.Contains(c.allowed, g.Interface) {
			c.globals[g.Name] = g
		}
	case registryGlobalRemove:
		delete(c.globals, args.Uint())
	}
}
