package trial

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/cetrus/cetrus/tools/stack"
)

// operators are the groups of kinds that the charts use where a cluster has them. No operator runs here: of each there
// is only what the API server judges its objects by, the CustomResourceDefinitions, and those for this scenario alone.
var operators = []string{"cert-manager.io", "gateway.networking.k8s.io", "monitoring.coreos.com", "postgresql.cnpg.io"}

// dryRun has the real API server judge every object that the charts make of their matrix of values.
func dryRun(ctx context.Context, t *trial) (err error) {
	if err := t.makeNamespace(ctx); err != nil {
		return err
	}
	objects, err := t.render(ctx)
	if err != nil {
		return err
	}
	if _, refused := t.wantsOperators(ctx); refused == nil {
		return errors.New("the chart wants operators that are not there, and does not say so")
	} else if !strings.Contains(refused.Error(), "which this cluster does not have") {
		return refused
	}
	definitions := filepath.Join(t.Root, ".cache", "crds")
	defer func() { err = errors.Join(err, t.removeOperators(context.WithoutCancel(ctx), definitions)) }()
	if _, err := t.kubectl(ctx, "apply", "--server-side", "--filename", definitions); err != nil {
		return err
	}
	// The server tells of kinds a while before it serves them.
	if err := stack.Wait(ctx, time.Minute, "the chart to find the operators that it wants", func() error {
		_, err := t.wantsOperators(ctx)
		return err
	}); err != nil {
		return err
	}
	judged, err := t.judge(ctx, objects)
	if err != nil {
		return err
	}
	of := map[string]any{}
	for _, group := range operators {
		if judged[group] == 0 {
			return fmt.Errorf("nothing of %s was rendered", group)
		}
		of[group] = judged[group]
	}
	t.say("the API server takes all %d objects that the charts make of their matrix of values, %d of them of operators' kinds", len(objects), operated(judged))
	return t.line("dry-run", float64(len(objects)), "objects", 0, of)
}

func operated(judged map[string]int) (n int) {
	for _, group := range operators {
		n += judged[group]
	}
	return n
}

// rendered is an object, and a release that it is in.
type rendered struct {
	Release string                    `json:"release"`
	Object  unstructured.Unstructured `json:"object"`
}

// render renders the matrix.
func (t *trial) render(ctx context.Context) (objects []rendered, err error) {
	program, err := stack.Build(ctx, t.Dir, "charts/cmd/chart-objects")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Dir = t.current.charts
	var failed bytes.Buffer
	cmd.Stderr = &failed
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("rendering the charts: %w: %s", err, failed.String())
	}
	for lines := json.NewDecoder(bytes.NewReader(text)); lines.More(); {
		var next rendered
		if err := lines.Decode(&next); err != nil {
			return nil, fmt.Errorf("rendering the charts: %w", err)
		}
		next.Object.SetNamespace(namespace)
		objects = append(objects, next)
	}
	return objects, nil
}

// wantsOperators has Helm render the example that stands on operators, for what this cluster has.
func (t *trial) wantsOperators(ctx context.Context) (string, error) {
	chart := filepath.Join(t.current.charts, "cetrus")
	return t.helm(ctx, "install", "trial", chart, "--namespace", namespace, "--dry-run=server", "--values", filepath.Join(chart, "examples", "operators.yaml"))
}

// judge has the API server take objects for show, as Helm 3 has it make them and as Helm 4 has it apply them, and
// refuse fields that it does not know. It tells how many of each group it takes. What it warns of is refused, too:
// pods that are less than restricted among it.
func (t *trial) judge(ctx context.Context, objects []rendered) (map[string]int, error) {
	access, err := clientcmd.BuildConfigFromFlags("", t.cluster.Kubeconfig)
	if err != nil {
		return nil, err
	}
	said := &warnings{}
	access.QPS, access.Burst, access.WarningHandler = -1, 0, said
	client, err := dynamic.NewForConfig(access)
	if err != nil {
		return nil, err
	}
	resources, err := restmapper.GetAPIGroupResources(t.kube.Discovery())
	if err != nil {
		return nil, err
	}
	kinds := restmapper.NewDiscoveryRESTMapper(resources)
	judged := map[string]int{}
	var failures []error
	told := map[string]bool{}
	for _, one := range objects {
		kind, object := one.Object.GroupVersionKind(), one.Object
		err := func() error {
			mapping, err := kinds.RESTMapping(kind.GroupKind(), kind.Version)
			if err != nil {
				return fmt.Errorf("%w (is it among tools/pin/crds/files.txt?)", err)
			}
			to := client.Resource(mapping.Resource).Namespace(namespace)
			_, created := to.Create(ctx, &object, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
			text, err := object.MarshalJSON()
			if err != nil {
				return err
			}
			_, applied := to.Patch(ctx, object.GetName(), types.ApplyPatchType, text, metav1.PatchOptions{
				DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict, FieldManager: "trial",
			})
			return errors.Join(created, applied, said.take())
		}()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err == nil {
			judged[kind.Group]++
			continue
		}
		// One mistake of a template is in many objects.
		if wrong := fmt.Sprintf("%s %s: %v", kind.Kind, object.GetName(), err); !told[wrong] {
			told[wrong] = true
			failures = append(failures, fmt.Errorf("%s %s, as of %q: %w", kind.Kind, object.GetName(), one.Release, err))
		}
	}
	return judged, errors.Join(failures...)
}

// warnings are those of the API server.
type warnings []string

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	if !slices.Contains(*w, text) {
		*w = append(*w, text)
	}
}

func (w *warnings) take() error {
	if len(*w) == 0 {
		return nil
	}
	err := fmt.Errorf("the API server warns: %s", strings.Join(*w, "; "))
	*w = nil
	return err
}

// removeOperators leaves the cluster as it was: the charts look at what it has.
func (t *trial) removeOperators(ctx context.Context, definitions string) error {
	if _, err := t.kubectl(ctx, "delete", "--ignore-not-found", "--wait", "--timeout=2m", "--filename", definitions); err != nil {
		return err
	}
	return stack.Wait(ctx, time.Minute, "the kinds of operators to be gone", func() error {
		lists, err := t.kube.Discovery().ServerPreferredResources()
		for _, list := range lists {
			if group, _, _ := strings.Cut(list.GroupVersion, "/"); slices.Contains(operators, group) {
				err = errors.Join(err, fmt.Errorf("%s is there", group))
			}
		}
		return err
	})
}
