package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/authz"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// step is one thing that happens around every call, unary or stream.
type step struct {
	unary  grpc.UnaryServerInterceptor
	stream grpc.StreamServerInterceptor
}

// steps is what happens around each call, from the outside in. Telemetry stands
// before all of them (see New).
func steps(cfg Config, deps Deps, rules map[string]authz.Rule, validator protovalidate.Validator) []step {
	return []step{
		// 1. Errors to status: outermost, so that whatever the steps below answer
		//    leaves in one shape; and internal causes are logged, not shown.
		errorStep(deps.Logger),
		// 2. Recovery: a panic below becomes an internal error of this call alone.
		recoveryStep(deps.Logger),
		// 3. Deadline: before anything that may wait, so that it is covered too.
		deadlineStep(cfg),
		// 4. Origin: before authentication, which may be throttled by it.
		originStep(cfg.TrustedProxies),
		// 5. Authentication, and 6. authorization: before the request is looked at;
		//    strangers cost little, and who may not call learns nothing of the contract.
		authStep(cfg, deps, rules),
		// 7. Validation: last, handlers see only what the contract allows.
		validationStep(validator),
	}
}

func errorStep(log *slog.Logger) step {
	finish := func(ctx context.Context, method string, err error) error {
		if err == nil {
			return nil
		}
		st := Status(err)
		if errs.Is(errs.Internal, err) && isServerFault(st.Code()) {
			log.ErrorContext(ctx, "call failed", "method", method, "code", st.Code().String(), "error", err)
		} else {
			log.DebugContext(ctx, "call refused", "method", method, "code", st.Code().String(), "error", err)
		}
		return st.Err()
	}
	return step{
		unary: func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			resp, err := next(ctx, req)
			return resp, finish(ctx, info.FullMethod, err)
		},
		stream: func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return finish(ss.Context(), info.FullMethod, next(srv, ss))
		},
	}
}

func recoveryStep(log *slog.Logger) step {
	recovered := func(ctx context.Context, method string, err *error) {
		if p := recover(); p != nil {
			log.ErrorContext(ctx, "call panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
			*err = errs.As(errs.Internal, "rpc.recover", method, "", fmt.Errorf("panic: %v", p))
		}
	}
	return step{
		unary: func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
			defer recovered(ctx, info.FullMethod, &err)
			return next(ctx, req)
		},
		stream: func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
			defer recovered(ss.Context(), info.FullMethod, &err)
			return next(srv, ss)
		},
	}
}

func deadlineStep(cfg Config) step {
	return step{
		unary: func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			ctx, cancel := context.WithTimeout(ctx, cfg.UnaryTimeout)
			defer cancel()
			return next(ctx, req)
		},
		// A stream lives as long as both ends like; its caller's deadline is in its
		// context already.
		stream: func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return next(srv, ss)
		},
	}
}

// open lists the services that answer without a key: they tell the state of the
// process and the published contract, nothing of any account.
var open = [...]string{"/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"}

func isOpen(method string) bool {
	for _, prefix := range open {
		if strings.HasPrefix(method, prefix) {
			return true
		}
	}
	return false
}

// authStep finds out who calls and judges whether they may, as the method's rule says.
func authStep(cfg Config, deps Deps, rules map[string]authz.Rule) step {
	check := func(ctx context.Context, method string) (context.Context, error) {
		if isOpen(method) {
			return ctx, nil
		}
		rule, ok := rules[method]
		if ok && rule.Anybody() {
			return ctx, nil
		}
		md, _ := metadata.FromIncomingContext(ctx)
		key, err := authn.KeyFromHeaders(md.Get("authorization"), md.Get("x-api-key"))
		if err != nil {
			return ctx, err
		}
		caller, err := deps.Authenticator.Authenticate(ctx, key)
		if err != nil {
			return ctx, errs.Wrap("rpc.authenticate", "", err)
		}
		if caller, err = rule.Admit(caller); err != nil {
			return ctx, errs.Wrap("rpc.authorize", "", err)
		}
		asked := authn.WithCaller(ctx, caller)
		if _, only := authn.OwnOnly(asked); only && deps.Principals != nil && !caller.Login.IsZero() {
			// The platform asks that, and not the caller, who sees nothing yet.
			own, err := deps.Principals.PrincipalsOf(ctx, caller.Account, caller.Login)
			if err != nil {
				return ctx, errs.Wrap("rpc.principals", "", err)
			}
			asked = authn.WithOwn(asked, own)
		}
		return sealedOrigin(asked, deps.Origins, caller), nil
	}
	return step{
		unary: func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			ctx, err := check(ctx, info.FullMethod)
			if err != nil {
				return nil, err
			}
			return next(ctx, req)
		},
		stream: func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			ctx, err := check(ss.Context(), info.FullMethod)
			if err != nil {
				return err
			}
			ctx, end := context.WithCancelCause(ctx)
			judged := make(chan struct{})
			go func() {
				defer close(judged)
				end(judgeAgain(ctx, cfg.JudgeStreamsEvery, func() (context.Context, error) { return check(ss.Context(), info.FullMethod) }))
			}()
			err = next(srv, &contextStream{ServerStream: ss, ctx: ctx})
			end(nil)
			<-judged
			if cause := context.Cause(ctx); errs.Is(errs.Unauthenticated, cause) || errs.Is(errs.Denied, cause) {
				return cause
			}
			return err
		},
	}
}

// judgeAgain asks in turns whether a stream's caller may still have it, since it may outlive
// what let them in: the error is why they may not. It is nil where ctx has ended. Where that
// cannot be told at the moment, the stream goes on.
func judgeAgain(ctx context.Context, every time.Duration, check func() (context.Context, error)) error {
	before, err := authn.CallerFrom(ctx)
	if err != nil {
		<-ctx.Done() // whoever asks may have it
		return nil
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		again, err := check()
		if errs.Is(errs.Unauthenticated, err) || errs.Is(errs.Denied, err) {
			return err
		}
		if err != nil {
			continue
		}
		if now, err := authn.CallerFrom(again); err == nil && now.Reach != before.Reach {
			return errs.New(errs.Unauthenticated, "rpc.stream", "", "how far the caller sees has changed since the stream began: begin it again")
		}
	}
}

func validationStep(validator protovalidate.Validator) step {
	return step{
		unary: func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := validate(validator, req); err != nil {
				return nil, err
			}
			return next(ctx, req)
		},
		stream: func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if isOpen(info.FullMethod) {
				return next(srv, ss)
			}
			return next(srv, &validStream{ServerStream: ss, validator: validator})
		},
	}
}

// validate checks a message against the rules in the contract.
func validate(validator protovalidate.Validator, msg any) error {
	m, ok := msg.(proto.Message)
	if !ok {
		return nil
	}
	const op = "rpc.validate"
	subject := string(m.ProtoReflect().Descriptor().Name())
	if path, found := zeroByte(m.ProtoReflect()); found {
		return errs.InvalidFields(op, subject, errs.Field{Path: path, Description: "has a character of code zero, which no text of Cetrus may have"})
	}
	err := validator.Validate(m)
	if err == nil {
		return nil
	}
	fields, ok := Violations(m.ProtoReflect().Descriptor(), err)
	if !ok {
		return errs.Wrap(op, subject, err)
	}
	fields = slices.DeleteFunc(fields, func(f errs.Field) bool { return leftAlone(m.ProtoReflect(), f.Path) })
	if len(fields) == 0 {
		return nil
	}
	return errs.InvalidFields(op, subject, fields...)
}

// zeroByte finds a text with a character of code zero. PostgreSQL keeps none, so that one that
// gets into the log would stop whoever builds tables from it, for every account.
func zeroByte(m protoreflect.Message) (path string, found bool) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		name := string(field.Name())
		look := func(field protoreflect.FieldDescriptor, at string, value protoreflect.Value) {
			switch {
			case found:
			case field.Kind() == protoreflect.StringKind:
				path, found = at, strings.IndexByte(value.String(), 0) >= 0
			case field.Message() != nil:
				if path, found = zeroByte(value.Message()); found {
					path = at + "." + path
				}
			}
		}
		switch {
		case field.IsList():
			for i := range value.List().Len() {
				look(field, fmt.Sprintf("%s[%d]", name, i), value.List().Get(i))
			}
		case field.IsMap():
			value.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
				look(field.MapKey(), name, key.Value())
				look(field.MapValue(), name, value)
				return !found
			})
		default:
			look(field, name, value)
		}
		return !found
	})
	return path, found
}

// leftAlone tells whether a field is one that a partial update leaves as it is:
// the request has a mask, the mask does not name the field, and the request does
// not set it. What a resource must have, an update of another field need not say.
func leftAlone(request protoreflect.Message, path string) bool {
	resource, rest, deeper := strings.Cut(path, ".")
	name, _, _ := strings.Cut(rest, ".")
	name, _, _ = strings.Cut(name, "[")
	maskField := request.Descriptor().Fields().ByName("update_mask")
	field := request.Descriptor().Fields().ByName(protoreflect.Name(resource))
	if !deeper || maskField == nil || field == nil || field.Message() == nil || field.IsList() || field.IsMap() {
		return false
	}
	mask, ok := request.Get(maskField).Message().Interface().(*fieldmaskpb.FieldMask)
	if !ok || len(mask.GetPaths()) == 0 {
		return false
	}
	for _, p := range mask.GetPaths() {
		if p == "*" || p == name || strings.HasPrefix(p, name+".") {
			return false
		}
	}
	inner := field.Message().Fields().ByName(protoreflect.Name(name))
	return inner != nil && !request.Get(field).Message().Has(inner)
}

// contextStream is a stream with another context.
type contextStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *contextStream) Context() context.Context { return s.ctx }

// validStream checks each message that comes in.
type validStream struct {
	grpc.ServerStream
	validator protovalidate.Validator
}

func (s *validStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if status.Code(err) == codes.Internal {
		// What came cannot be read, which is its sender's fault; grpc-go calls it ours, and
		// our log must not.
		return errs.As(errs.Invalid, "rpc.receive", "", "the request is no message of this method", err)
	}
	if err != nil {
		return err
	}
	return validate(s.validator, m)
}
