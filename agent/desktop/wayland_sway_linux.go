package desktop

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jezek/xgb/xproto"

	"github.com/cetrus/cetrus/agent/activity"
)

// sway's inter-process communication, sway-ipc(7): what i3 began. A message is the
// magic, a length, a type, and JSON.
const (
	swayMagic     = "i3-ipc"
	swaySubscribe = 2
	swayGetTree   = 4
	// maxSwayMessage is more than a tree of maxWindows windows takes.
	maxSwayMessage = 32 << 20
	maxSwayDepth   = 256
)

// sway follows the windows of sway, which tells the process of each.
type sway struct {
	asking net.Conn
	events net.Conn
	wake   func()
	at     place

	listening sync.WaitGroup
	titleTold time.Time // the listener's own
	// What sway told last, and what that means: most answers are what they were, and
	// then cost nothing but their comparison.
	answer, before bytes.Buffer
	facts          windowFacts
	xWindows       map[uint64]uint64
	// xPIDs are the processes of the windows of Xwayland.
	xPIDs map[uint64]int32
}

// swayNode is what is read of a node of the tree.
type swayNode struct {
	ID      uint64  `json:"id"`
	Name    *string `json:"name"`
	PID     int32   `json:"pid"`
	AppID   *string `json:"app_id"`
	Focused bool    `json:"focused"`
	Inhibit bool    `json:"inhibit_idle"`
	// Window is the X11 window, where it is one.
	Window     *uint64 `json:"window"`
	Properties struct {
		Class        string  `json:"class"`
		TransientFor *uint64 `json:"transient_for"`
	} `json:"window_properties"`
	Nodes    []swayNode `json:"nodes"`
	Floating []swayNode `json:"floating_nodes"`
}

func openSway(ctx context.Context, socket string, at place, wake func()) (*sway, error) {
	s := &sway{wake: wake, at: at, xPIDs: make(map[uint64]int32)}
	var dialer net.Dialer
	var err error
	if s.asking, err = dialer.DialContext(ctx, "unix", socket); err != nil {
		return nil, fmt.Errorf("desktop: sway does not answer: %w", err)
	}
	if s.events, err = dialer.DialContext(ctx, "unix", socket); err != nil {
		_ = s.asking.Close()
		return nil, fmt.Errorf("desktop: sway does not answer: %w", err)
	}
	if err := s.subscribe(ctx); err != nil {
		_ = s.asking.Close()
		_ = s.events.Close()
		return nil, err
	}
	s.listening.Go(s.listen)
	return s, nil
}

func (s *sway) subscribe(ctx context.Context) error {
	var answer bytes.Buffer
	if err := swayAsk(ctx, s.events, swaySubscribe, `["window","workspace"]`, &answer); err != nil {
		return err
	}
	var said struct {
		Success bool `json:"success"`
	}
	if json.Unmarshal(answer.Bytes(), &said) != nil || !said.Success {
		return errors.New("desktop: sway does not tell changes of its windows")
	}
	return nil
}

// listen wakes when sway tells a change, until the connection ends.
func (s *sway) listen() {
	defer s.wake()
	var body bytes.Buffer
	for {
		if _, err := readSway(s.events, &body); err != nil {
			return
		}
		var said struct {
			Change string `json:"change"`
		}
		_ = json.Unmarshal(body.Bytes(), &said)
		if said.Change == "title" {
			// Some programs draw in their title; those wait for the next look.
			if time.Since(s.titleTold) < titlePeriod {
				continue
			}
			s.titleTold = time.Now()
		}
		s.wake()
	}
}

// swayAsk asks one question. When ctx ends, the connection is of no use any more.
func swayAsk(ctx context.Context, conn net.Conn, kind uint32, payload string, into *bytes.Buffer) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	question := append([]byte(swayMagic), make([]byte, 8)...)
	binary.NativeEndian.PutUint32(question[len(swayMagic):], uint32(len(payload)))
	binary.NativeEndian.PutUint32(question[len(swayMagic)+4:], kind)
	if _, err := conn.Write(append(question, payload...)); err != nil {
		return fmt.Errorf("desktop: sway does not listen: %w", err)
	}
	for {
		got, err := readSway(conn, into)
		if err != nil {
			return fmt.Errorf("desktop: sway does not answer: %w", err)
		}
		if got == kind {
			return nil
		}
	}
}

// readSway reads one message, in the place of what a buffer held.
func readSway(r io.Reader, into *bytes.Buffer) (kind uint32, err error) {
	head := make([]byte, len(swayMagic)+8)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, err
	}
	if string(head[:len(swayMagic)]) != swayMagic {
		return 0, errors.New("desktop: what speaks at the socket of sway is not sway")
	}
	length := binary.NativeEndian.Uint32(head[len(swayMagic):])
	if length > maxSwayMessage {
		return 0, fmt.Errorf("desktop: sway sends a message of %d bytes, at most %d are read", length, maxSwayMessage)
	}
	// It grows with what arrives, not with what is announced.
	into.Reset()
	_, err = io.CopyN(into, r, int64(length))
	return binary.NativeEndian.Uint32(head[len(swayMagic)+4:]), err
}

// windows implements windowSource.
func (s *sway) windows(ctx context.Context) (windowFacts, error) {
	if err := swayAsk(ctx, s.asking, swayGetTree, "", &s.answer); err != nil {
		return windowFacts{}, err
	}
	if s.before.Len() == 0 || !bytes.Equal(s.answer.Bytes(), s.before.Bytes()) {
		facts, xWindows, err := parseSwayTree(s.answer.Bytes())
		if err != nil {
			return windowFacts{}, err
		}
		s.facts, s.xWindows = facts, xWindows
		s.answer, s.before = s.before, s.answer
	}
	s.followX(ctx, s.xWindows)
	facts := s.facts
	if len(s.xWindows) > 0 {
		facts.list = slices.Clone(facts.list)
	}
	for n, w := range facts.list {
		if xid := s.xWindows[w.ID]; s.xPIDs[xid] != 0 {
			facts.list[n].PID = s.xPIDs[xid]
		}
	}
	return facts, nil
}

// parseSwayTree reads the windows out of sway's tree, and which of them are windows of
// Xwayland, by their number there.
func parseSwayTree(tree []byte) (facts windowFacts, xWindows map[uint64]uint64, err error) {
	var root swayNode
	if err := json.Unmarshal(tree, &root); err != nil {
		return windowFacts{}, nil, fmt.Errorf("desktop: what sway tells of its windows: %w", err)
	}
	facts.inhibitorsTold = true
	xWindows = make(map[uint64]uint64)
	byX, transient := make(map[uint64]uint64), make(map[int]uint64)
	seen := make(map[uint64]bool)
	var walk func(n *swayNode, depth int)
	walk = func(n *swayNode, depth int) {
		if depth > maxSwayDepth || len(facts.list) >= maxWindows {
			return
		}
		for i := range n.Nodes {
			walk(&n.Nodes[i], depth+1)
		}
		for i := range n.Floating {
			walk(&n.Floating[i], depth+1)
		}
		if n.PID <= 0 || n.ID == 0 || seen[n.ID] {
			return
		}
		seen[n.ID] = true
		w := activity.Window{ID: n.ID, PID: n.PID, Class: clipText(n.Properties.Class)}
		if n.AppID != nil && *n.AppID != "" {
			w.Class = clipText(*n.AppID)
		}
		if n.Name != nil {
			w.Title = clipText(*n.Name)
		}
		if n.Window != nil && *n.Window != 0 {
			xWindows[n.ID], byX[*n.Window] = *n.Window, n.ID
			if n.Properties.TransientFor != nil {
				transient[len(facts.list)] = *n.Properties.TransientFor
			}
		}
		facts.list = append(facts.list, w)
		facts.inhibited = facts.inhibited || n.Inhibit
		if n.Focused {
			facts.foreground = n.ID
		}
	}
	walk(&root, 0)
	for n, parent := range transient {
		if id := byX[parent]; id != facts.list[n].ID {
			facts.list[n].Parent = id
		}
	}
	slices.SortFunc(facts.list, func(a, b activity.Window) int { return cmp.Compare(a.ID, b.ID) })
	return facts, xWindows, nil
}

// followX asks Xwayland whose its windows are, as sway knows only what programs say of
// themselves. It is connected to while there is something to ask, so that it can end
// with its last window.
func (s *sway) followX(ctx context.Context, xWindows map[uint64]uint64) {
	there := make(map[uint64]int32, len(xWindows))
	var unknown []xproto.Window
	for _, xid := range xWindows {
		if pid, known := s.xPIDs[xid]; known {
			there[xid] = pid
		} else {
			unknown = append(unknown, xproto.Window(xid))
		}
	}
	s.xPIDs = there
	if len(unknown) == 0 || s.at.display == "" {
		return
	}
	x, err := openX(ctx, s.at.display, s.at.authority, func() {})
	if err != nil {
		return // asked again at the next look
	}
	defer x.close()
	stop := context.AfterFunc(ctx, func() { _ = x.raw.Close() })
	defer stop()
	for _, w := range unknown {
		there[uint64(w)] = x.processOf(w)
	}
}

// close implements windowSource.
func (s *sway) close() {
	_ = s.asking.Close()
	_ = s.events.Close()
	s.listening.Wait()
}

// clipText keeps a text within what is read of one.
func clipText(text string) string {
	if len(text) > maxText {
		text = text[:maxText]
	}
	return strings.ToValidUTF8(text, "")
}
