package manager

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/buffer"
)

const (
	// Use older than this is left to the platform's reports.
	recentSpan = 24 * time.Hour
	// A question reads at most so much of the buffer; the next one goes on there.
	maxScanBytes = 64 << 20
	maxScanTime  = 2 * time.Second
	// Intervals are added up by the hour in which they ended.
	slotMillis = int64(time.Hour / time.Millisecond)
)

// recentUse adds up closed intervals that pass through the buffer. It reads only
// when somebody asks, and never the same message twice. What it tells is
// temporary: frames sent twice count twice, which only the platform's reports
// put right.
type recentUse struct {
	source *buffer.Buffer

	mu    sync.Mutex
	next  uint64
	level bool
	slots map[useKey]*useSums
}

type useKey struct {
	hour                   int64
	application, principal contract.ID
}

type useSums struct {
	busyMillis, openMillis int64
}

// use is one line of recent use.
type use struct {
	Application contract.ID
	Principal   contract.ID
	Busy, Open  time.Duration
}

func newRecentUse(source *buffer.Buffer) *recentUse {
	return &recentUse{source: source, slots: make(map[useKey]*useSums)}
}

// lines is recent use per application and person, the greatest first. level says
// whether everything in the buffer has been read.
func (r *recentUse) lines(ctx context.Context, now time.Time) (lines []use, level bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.scan(ctx, now); err != nil {
		return nil, false, err
	}
	sums := make(map[useKey]*use)
	oldest := now.Add(-recentSpan).UnixMilli() / slotMillis
	for key, s := range r.slots {
		if key.hour < oldest {
			delete(r.slots, key)
			continue
		}
		key.hour = 0
		line := sums[key]
		if line == nil {
			line = &use{Application: key.application, Principal: key.principal}
			sums[key] = line
		}
		line.Busy += time.Duration(s.busyMillis) * time.Millisecond
		line.Open += time.Duration(s.openMillis) * time.Millisecond
	}
	for _, line := range sums {
		lines = append(lines, *line)
	}
	slices.SortFunc(lines, func(a, b use) int {
		return cmp.Or(cmp.Compare(b.Busy, a.Busy), cmp.Compare(b.Open, a.Open), slices.Compare(a.Application[:], b.Application[:]), slices.Compare(a.Principal[:], b.Principal[:]))
	})
	return lines, r.level, nil
}

func (r *recentUse) scan(ctx context.Context, now time.Time) error {
	state := r.source.State()
	if r.next < state.FirstPosition {
		r.next = state.FirstPosition
	}
	if state.LastPosition > r.next {
		from, err := r.begin(ctx, state.LastPosition, now)
		if err != nil {
			return err
		}
		r.next = from
	}
	deadline := time.Now().Add(maxScanTime)
	for scanned := 0; scanned < maxScanBytes && time.Now().Before(deadline); {
		message, err := r.source.Next(ctx, usagev1.Lane_LANE_USAGE, r.next)
		if errors.Is(err, buffer.ErrNothing) {
			r.level = true
			return nil
		}
		if err != nil {
			return err
		}
		r.add(message.Data)
		scanned += len(message.Data)
		r.next = message.Position + 1
	}
	r.level = false
	return nil
}

// begin is the first unread position that is recent.
func (r *recentUse) begin(ctx context.Context, last uint64, now time.Time) (uint64, error) {
	horizon := now.Add(-recentSpan)
	low, high := r.next, last+1
	for low < high {
		middle := low + (high-low)/2
		if low == r.next {
			middle = low
		}
		stored, err := r.source.StoredAt(ctx, middle)
		if err != nil && !errors.Is(err, buffer.ErrNothing) {
			return 0, err
		}
		if err == nil && stored.Before(horizon) {
			low = middle + 1
			continue
		}
		if middle == r.next {
			return middle, nil
		}
		high = middle
	}
	return low, nil
}

func (r *recentUse) add(data []byte) {
	var batch usagev1.AgentBatch
	if proto.Unmarshal(data, &batch) != nil {
		return
	}
	for _, received := range batch.GetFrames() {
		var frame usagev1.Frame
		if proto.Unmarshal(received.GetFrame(), &frame) != nil {
			continue
		}
		principals := make(map[string]contract.ID)
		for _, b := range received.GetBindings() {
			if id, err := contract.IDFrom(b.GetPrincipalId()); err == nil {
				principals[string(b.GetPrincipalAlias())] = id
			}
		}
		anchors := make(map[uint64]*usagev1.Anchor)
		for _, a := range frame.GetAnchors() {
			anchors[a.GetAnchorId()] = a
		}
		for _, raw := range frame.GetRecords() {
			var record usagev1.Record
			if proto.Unmarshal(raw, &record) == nil {
				r.addEvent(record.GetUsage(), principals, anchors)
			}
		}
	}
}

func (r *recentUse) addEvent(e *usagev1.UsageEvent, principals map[string]contract.ID, anchors map[uint64]*usagev1.Anchor) {
	closed, anchor := e.GetClosed(), anchors[e.GetAnchorId()]
	if closed == nil || anchor == nil || len(e.GetDocumentId()) != 0 {
		return
	}
	length := closed.GetToBootMillis() - closed.GetFromBootMillis()
	application, err := contract.IDFrom(e.GetApplicationId())
	if err != nil || length <= 0 {
		return
	}
	ended := anchor.GetUtcMillis() + closed.GetToBootMillis() - anchor.GetBootMillis()
	key := useKey{hour: ended / slotMillis, application: application, principal: principals[string(e.GetPrincipalAlias())]}
	s := r.slots[key]
	if s == nil {
		s = &useSums{}
		r.slots[key] = s
	}
	s.openMillis += length
	if closed.GetAttention() == usagev1.Attention_ATTENTION_BUSY {
		s.busyMillis += length
	}
}
