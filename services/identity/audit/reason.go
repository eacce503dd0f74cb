package audit

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/cetrus/cetrus/proto/contract"
)

// reason is why somebody did something, sealed under somebody's key; the zero reason is none.
type reason struct {
	key    contract.ID
	sealed string
}

// reasonOf finds it in any event that says it as the contract does: sealed_reason, under the key
// of key_id. nil has none.
func reasonOf(m proto.Message) reason {
	if m == nil {
		return reason{}
	}
	field := func(name protoreflect.Name) []byte {
		f := m.ProtoReflect().Descriptor().Fields().ByName(name)
		if f == nil || f.Kind() != protoreflect.BytesKind || f.IsList() {
			return nil
		}
		return m.ProtoReflect().Get(f).Bytes()
	}
	sealed := field("sealed_reason")
	key, err := contract.IDFrom(field("key_id"))
	if len(sealed) == 0 || err != nil {
		return reason{}
	}
	return reason{key, string(sealed)}
}

// isOfReason tells whether a change is part of how an event says its reason: sealed, and under whose key.
func isOfReason(c change) bool {
	return c.Field == "key_id" || c.Field == "sealed_reason" || c.Field == "reason" && c.After == sealed
}

// columns are its places in the table.
func (r reason) columns() (key *[16]byte, sealed []byte) {
	if r.sealed == "" {
		return nil, nil
	}
	return (*[16]byte)(&r.key), []byte(r.sealed)
}

// readReason is the other way round.
func readReason(key *[16]byte, sealed []byte) reason {
	if key == nil || len(sealed) == 0 {
		return reason{}
	}
	return reason{*key, string(sealed)}
}
