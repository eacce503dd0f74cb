package rpc

import (
	"errors"
	"strings"

	validatepb "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/cetrus/cetrus/services/platform/errs"
)

// Domain is the domain of the ErrorInfo in every error of Cetrus.
const Domain = "cetrus"

// kindCodes is the one place where kinds become gRPC codes; the gateway derives
// HTTP statuses from these.
var kindCodes = map[errs.Kind]codes.Code{
	errs.Internal:         codes.Internal,           // 500
	errs.Invalid:          codes.InvalidArgument,    // 400
	errs.NotFound:         codes.NotFound,           // 404
	errs.AlreadyExists:    codes.AlreadyExists,      // 409
	errs.Conflict:         codes.Aborted,            // 409
	errs.Precondition:     codes.FailedPrecondition, // 400
	errs.Unauthenticated:  codes.Unauthenticated,    // 401
	errs.Denied:           codes.PermissionDenied,   // 403
	errs.Unavailable:      codes.Unavailable,        // 503
	errs.Exhausted:        codes.ResourceExhausted,  // 429
	errs.DeadlineExceeded: codes.DeadlineExceeded,   // 504
	errs.Canceled:         codes.Canceled,           // 499
	errs.Unimplemented:    codes.Unimplemented,      // 501
}

// Status is what a caller is told of an error: code, message, an ErrorInfo with
// reason and subject, and a BadRequest where fields are wrong. An error that is
// a gRPC status already stays as it is, but for an ErrorInfo where it has none.
// Nil becomes OK.
func Status(err error) *status.Status {
	if err == nil {
		return status.New(codes.OK, "")
	}
	var own *errs.Error
	if !errors.As(err, &own) {
		if st, ok := status.FromError(err); ok {
			return withInfo(st)
		}
	}

	p := errs.PublicOf(err)
	p.Subject = text(p.Subject)
	message := text(p.Message)
	if p.Subject != "" && p.Kind != errs.Invalid {
		message = p.Subject + ": " + message
	}
	info := &errdetails.ErrorInfo{Reason: p.Reason, Domain: Domain}
	if p.Subject != "" {
		info.Metadata = map[string]string{"subject": p.Subject}
	}
	details := []protoadapt.MessageV1{info}
	if len(p.Fields) > 0 {
		bad := &errdetails.BadRequest{}
		for _, f := range p.Fields {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: text(f.Path), Description: text(f.Description)})
		}
		details = append(details, bad)
	}
	return with(status.New(kindCodes[p.Kind], message), details...)
}

// text makes a text that messages can carry: errors may quote bytes that came
// from outside.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// withInfo adds an ErrorInfo to a status that has none; its reason is that of
// the kind that the code stands for.
func withInfo(st *status.Status) *status.Status {
	if len(st.Details()) > 0 || st.Code() == codes.OK {
		return st
	}
	reason := errs.Internal.Reason()
	for kind, code := range kindCodes {
		if code == st.Code() {
			reason = kind.Reason()
		}
	}
	return with(st, &errdetails.ErrorInfo{Reason: reason, Domain: Domain})
}

func with(st *status.Status, details ...protoadapt.MessageV1) *status.Status {
	if detailed, err := st.WithDetails(details...); err == nil {
		return detailed
	}
	return st
}

// isServerFault tells the codes that are nobody's fault but ours.
func isServerFault(c codes.Code) bool {
	return c == codes.Internal || c == codes.Unknown || c == codes.DataLoss
}

// Violations turns what the validator found in a message into fields.
func Violations(message protoreflect.MessageDescriptor, err error) ([]errs.Field, bool) {
	var invalid *protovalidate.ValidationError
	if !errors.As(err, &invalid) {
		return nil, false
	}
	fields := make([]errs.Field, 0, len(invalid.Violations))
	for _, v := range invalid.Violations {
		f := errs.Field{Path: protovalidate.FieldPathString(v.Proto.GetField()), Description: v.Proto.GetMessage()}
		if f.Path == "" {
			f.Path = "(request)"
		}
		switch rule := v.Proto.GetRuleId(); {
		case rule == "repeated.unique":
			f.Description = "has a value twice: name each once"
		case strings.HasPrefix(rule, "enum."):
			if enum := enumAt(message, v.Proto.GetField()); enum != nil {
				f.Description = "takes one of " + enumNames(enum)
			}
		}
		if f.Description == "" {
			f.Description = "breaks the rule " + v.Proto.GetRuleId()
		}
		fields = append(fields, f)
	}
	return fields, true
}

// enumAt is the enum of the field that a path leads to; nil where it is of another
// kind.
func enumAt(message protoreflect.MessageDescriptor, path *validatepb.FieldPath) protoreflect.EnumDescriptor {
	var field protoreflect.FieldDescriptor
	for _, element := range path.GetElements() {
		if message == nil {
			return nil
		}
		if field = message.Fields().ByNumber(protoreflect.FieldNumber(element.GetFieldNumber())); field == nil {
			return nil
		}
		message = field.Message()
	}
	if field == nil {
		return nil
	}
	return field.Enum()
}

// enumNames lists what an enum's fields may say; the zero value says nothing.
func enumNames(enum protoreflect.EnumDescriptor) string {
	var names []string
	for i := range enum.Values().Len() {
		if v := enum.Values().Get(i); v.Number() != 0 {
			names = append(names, string(v.Name()))
		}
	}
	return strings.Join(names, ", ")
}
