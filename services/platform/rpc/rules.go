package rpc

import (
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/cetrus/cetrus/services/platform/authz"
)

// names gathers the names of the services that are registered with it.
type names []string

func (n *names) RegisterService(desc *grpc.ServiceDesc, _ any) { *n = append(*n, desc.ServiceName) }

// rulesOf reads who may call each method of the services, by its full name
// (/package.Service/Method). Its error names every method that does not say.
func rulesOf(services []Service) (map[string]authz.Rule, error) {
	var registered names
	for _, s := range services {
		s.Register(&registered)
	}
	rules := map[string]authz.Rule{}
	var wrong []error
	for _, name := range registered {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		service, ok := found.(protoreflect.ServiceDescriptor)
		if err != nil || !ok {
			wrong = append(wrong, fmt.Errorf("the service %s is of no contract that says who may call it", name))
			continue
		}
		for i := range service.Methods().Len() {
			method := service.Methods().Get(i)
			rule, err := authz.Of(method)
			wrong = append(wrong, err)
			rules["/"+name+"/"+string(method.Name())] = rule
		}
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, fmt.Errorf("rpc: methods that do not say who may call them are not served: %w", err)
	}
	return rules, nil
}
