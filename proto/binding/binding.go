package binding

import (
	"fmt"
	"net/http"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Binding is a method in REST.
type Binding struct {
	// Verb and Template are as GET and /v1/instances/{instance_id}.
	Verb, Template string
	// Body is the field that the body holds, "*" for all, empty for none.
	Body string
	// ResponseBody is the field that is answered; empty: the whole message.
	ResponseBody string
}

// Of is the binding of a method; false where it is offered by gRPC alone.
func Of(m protoreflect.MethodDescriptor) (Binding, bool, error) {
	rule, ok := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
	if !ok || rule == nil {
		return Binding{}, false, nil
	}
	b := Binding{Body: rule.GetBody(), ResponseBody: rule.GetResponseBody()}
	switch p := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		b.Verb, b.Template = http.MethodGet, p.Get
	case *annotations.HttpRule_Put:
		b.Verb, b.Template = http.MethodPut, p.Put
	case *annotations.HttpRule_Post:
		b.Verb, b.Template = http.MethodPost, p.Post
	case *annotations.HttpRule_Delete:
		b.Verb, b.Template = http.MethodDelete, p.Delete
	case *annotations.HttpRule_Patch:
		b.Verb, b.Template = http.MethodPatch, p.Patch
	default:
		return Binding{}, false, fmt.Errorf("binding: %s has an HTTP rule of a kind that is not known here", m.FullName())
	}
	return b, true, nil
}
