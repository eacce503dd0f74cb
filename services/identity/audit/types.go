package audit

import (
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// types finds the message that a type of event means, in whatever contexts are linked into this
// program: no service is known here, and none is missed. The contract names types after their
// messages – cetrus.identity.login.disabled.v1 is LoginDisabled, …credential.password_changed.v1
// PasswordChanged, …settings.changed.v1 MeteringSettingsChanged – but for those of renamed; a test
// reads the contract and compares.
type types struct {
	mu    sync.Mutex
	found map[string]protoreflect.MessageType
}

// renamed are types whose messages are named otherwise: later versions, above all.
var renamed = map[string]protoreflect.FullName{
	"cetrus.metering.view.named_use.v1":             "cetrus.metering.v1.NamedUseViewed",
	"cetrus.metering.expense_to_project.changed.v2": "cetrus.metering.v1.ExpenseToProjectDecided",
}

// inTheClear is the one type whose events name people in the clear. None is written any more, and
// nothing can take out of the log what was; but the tables need not repeat it.
const inTheClear = "cetrus.metering.expense_to_project.changed.v1"

// decode is nil where the type is not known, its bytes are none of it, or its fields are not to be told.
func (t *types) decode(kind string, data []byte) proto.Message {
	mt := t.of(kind)
	if mt == nil || kind == inTheClear {
		return nil
	}
	m := mt.New().Interface()
	if proto.Unmarshal(data, m) != nil {
		return nil
	}
	return m
}

func (t *types) of(kind string) protoreflect.MessageType {
	t.mu.Lock()
	defer t.mu.Unlock()
	mt, known := t.found[kind]
	if !known {
		mt = find(kind)
		if t.found == nil {
			t.found = map[string]protoreflect.MessageType{}
		}
		t.found[kind] = mt
	}
	return mt
}

func find(kind string) protoreflect.MessageType {
	if name, ok := renamed[kind]; ok {
		mt, err := protoregistry.GlobalTypes.FindMessageByName(name)
		if err != nil {
			return nil
		}
		return mt
	}
	tokens := strings.Split(kind, ".")
	if len(tokens) != 5 || tokens[0] != "cetrus" || tokens[4] != "v1" {
		return nil
	}
	inContext := "cetrus." + tokens[1] + ".v1."
	happened := strings.ReplaceAll(tokens[3], "_", "")
	whole := strings.ReplaceAll(tokens[2], "_", "") + happened
	best, worth := protoreflect.MessageType(nil), 0
	protoregistry.GlobalTypes.RangeMessages(func(mt protoreflect.MessageType) bool {
		full := string(mt.Descriptor().FullName())
		name := strings.ToLower(string(mt.Descriptor().Name()))
		local := strings.HasPrefix(full, inContext)
		now := 0
		switch {
		case !strings.HasPrefix(full, "cetrus."):
		case local && name == whole:
			now = 4
		case local && name == happened:
			now = 3
		case local && strings.HasSuffix(name, whole):
			now = 2
		case name == happened || name == whole:
			now = 1
		}
		// They come in no order: of two that are as good it is always the same.
		if now > worth || now > 0 && now == worth && full < string(best.Descriptor().FullName()) {
			best, worth = mt, now
		}
		return true
	})
	return best
}
