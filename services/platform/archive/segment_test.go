package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func drawMessages(t *rapid.T) []Message {
	var all []Message
	sequence, at := uint64(rapid.IntRange(0, 1000).Draw(t, "before")), time.Unix(1_700_000_000, 0).UTC()
	for range rapid.IntRange(1, 30).Draw(t, "messages") {
		sequence += uint64(rapid.IntRange(1, 3).Draw(t, "step"))
		at = at.Add(time.Duration(rapid.Int64Range(-5, 1e12).Draw(t, "later")))
		m := Message{Subject: rapid.String().Draw(t, "subject"), Sequence: sequence, Stored: at, Data: rapid.SliceOf(rapid.Byte()).Draw(t, "data")}
		if rapid.IntRange(0, 9).Draw(t, "large") == 0 {
			m.Data = bytes.Repeat([]byte{byte(sequence)}, blockBytes/2)
		}
		if headers := rapid.MapOfN(rapid.String(), rapid.SliceOf(rapid.String()), 0, 3).Draw(t, "header"); len(headers) > 0 {
			m.Header = headers
		}
		all = append(all, m)
	}
	return all
}

func build(t interface{ Fatal(...any) }, keys *Keys, all []Message) []byte {
	b := &builder{packer: newPacker(), header: Header{Stream: "S", Created: time.Unix(1, 2).UTC(), First: all[0].Sequence}}
	for i := range all {
		b.add(&all[i], false)
	}
	content, _, err := b.seal(keys)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestSegmentsHoldWhatWasPutIntoThem(t *testing.T) {
	keys := NewKeys()
	rapid.Check(t, func(t *rapid.T) {
		want := drawMessages(t)
		content := build(t, keys, want)
		s, err := parseSegment(content)
		if err != nil {
			t.Fatal(err)
		}
		var got []Message
		if err := s.messages(keys, func(m Message) error {
			got = append(got, m)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		same := func(a, b Message) bool {
			return a.Subject == b.Subject && a.Sequence == b.Sequence && a.Stored.Equal(b.Stored) && bytes.Equal(a.Data, b.Data) && cmp.Equal(a.Header, b.Header, cmpopts.EquateEmpty())
		}
		if !slices.EqualFunc(want, got, same) {
			t.Fatalf("%d messages are not as they were", len(want))
		}
		if s.Last != want[len(want)-1].Sequence || s.Messages != len(want) || !s.Ended.Equal(want[len(want)-1].Stored) {
			t.Fatalf("it says of itself: %+v", s.Header)
		}
	})
}

// Whatever is changed, cut off or put in is found: by the digest, and where somebody has made
// that right again, by the seals.
func TestChangedSegmentsAreNotRead(t *testing.T) {
	keys := NewKeys()
	rapid.Check(t, func(t *rapid.T) {
		content := build(t, keys, drawMessages(t))
		read := func(content []byte) error {
			s, err := parseSegment(content)
			if err != nil {
				return err
			}
			return s.messages(keys, func(Message) error { return nil })
		}
		changed := bytes.Clone(content)
		at := rapid.IntRange(0, len(content)-1).Draw(t, "at")
		changed[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if read(changed) == nil {
			t.Fatalf("byte %d of %d can be changed", at, len(content))
		}
		if at < len(content)-digestBytes {
			if read(resum(changed)) == nil {
				t.Fatalf("byte %d of %d can be changed by who makes the digest right", at, len(content))
			}
		}
		if cut := content[:at]; read(cut) == nil || len(cut) > digestBytes && read(resum(cut)) == nil {
			t.Fatalf("all from byte %d on can be cut off", at)
		}
	})
}

// resum makes the digest at the end right again.
func resum(content []byte) []byte {
	s := sealedBody(content)
	return append(s, digestOf(s)...)
}

func TestOtherKeys(t *testing.T) {
	content := build(t, NewKeys(), []Message{{Subject: "s", Sequence: 1}})
	s, err := parseSegment(content)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.messages(NewKeys(), func(Message) error { return nil }); !errors.Is(err, ErrOtherKey) {
		t.Errorf("another key: %v", err)
	}
}

func FuzzSegment(f *testing.F) {
	keys, packer := NewKeys(), newPacker()
	f.Add(build(f, keys, []Message{{Subject: "a.b", Sequence: 7, Header: map[string][]string{"k": {"v", ""}}, Data: []byte("data")}}))
	f.Add([]byte(magic))
	header, err := json.Marshal(Header{Stream: "S", First: 1, Last: 2, Messages: 1})
	if err != nil {
		f.Fatal(err)
	}
	content, _ := keys.seal(kindSegment, header, nil)
	f.Add(content)
	f.Fuzz(func(_ *testing.T, content []byte) {
		for _, c := range [][]byte{content, resum(content)} {
			if s, err := parseSegment(c); err == nil {
				_ = s.messages(keys, func(Message) error { return nil })
			}
		}
		// What stands in a block is from who had the key; it is read with the same care.
		if len(content) > 0 {
			sealedBytes, _ := keys.seal(kindSegment, header, [][]byte{packer.EncodeAll(content, nil)})
			s, err := parseSegment(sealedBytes)
			if err != nil {
				panic(err)
			}
			_ = s.messages(keys, func(Message) error { return nil })
		}
	})
}
