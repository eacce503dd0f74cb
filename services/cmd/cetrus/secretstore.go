package main

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/durable"
	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	// namespaceFile is where a pod finds its namespace.
	namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
	// clusterWithin is how long the API of Kubernetes may take to answer once.
	clusterWithin = 30 * time.Second
)

// secretFolder keeps each secret as a folder of files.
type secretFolder string

func (f secretFolder) path(name string) string { return filepath.Join(string(f), name) }

func (f secretFolder) get(_ context.Context, name string) (map[string][]byte, error) {
	entries, err := os.ReadDir(f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errs.As(errs.Precondition, "cetrus secrets", f.path(name), "cannot be read", err)
	}
	files := make(map[string][]byte)
	for _, entry := range entries {
		if !entry.Type().IsRegular() {
			continue
		}
		path := filepath.Join(f.path(name), entry.Name())
		if files[entry.Name()], err = os.ReadFile(path); err != nil {
			return nil, errs.As(errs.Precondition, "cetrus secrets", path, "cannot be read", err)
		}
	}
	return files, nil
}

// create makes the folder whole, or not at all.
func (f secretFolder) create(_ context.Context, name string, files map[string][]byte, _ bool) error {
	fail := func(err error) error {
		return errs.As(errs.Precondition, "cetrus secrets", f.path(name), "cannot be made", err)
	}
	if err := os.MkdirAll(string(f), 0o700); err != nil {
		return fail(err)
	}
	temporary, err := os.MkdirTemp(string(f), ".new-*") // mode 0700
	if err != nil {
		return fail(err)
	}
	defer func() { _ = os.RemoveAll(temporary) }() // not there any more where it was renamed
	for file, text := range files {
		if err := durable.Create(filepath.Join(temporary, file), text); err != nil {
			return fail(err)
		}
	}
	return fail(os.Rename(temporary, f.path(name)))
}

func (f secretFolder) update(_ context.Context, name string, files map[string][]byte) error {
	for file, text := range files {
		path := filepath.Join(f.path(name), file)
		if err := durable.Replace(path, text); err != nil {
			return errs.As(errs.Precondition, "cetrus secrets", path, "cannot be replaced", err)
		}
	}
	return nil
}

func (f secretFolder) remove(_ context.Context, name string) error {
	return errs.As(errs.Precondition, "cetrus secrets", f.path(name), "cannot be removed", os.RemoveAll(f.path(name)))
}

// cluster keeps secrets in a namespace of Kubernetes.
type cluster struct {
	api       *rest.RESTClient
	namespace string
	// installation is told in a label of each.
	installation string
	// seen are secrets as get has answered them: update refuses to overwrite what another has changed since.
	seen map[string]*corev1.Secret
}

// openCluster is the cluster in which this process runs; it answers the namespace too.
func openCluster(namespace, installation string) (*cluster, string, error) {
	access, err := rest.InClusterConfig()
	if err != nil {
		return nil, "", errs.As(errs.Precondition, "cetrus secrets", "", "runs in no cluster of Kubernetes, or without a service account: name a directory with --output", err)
	}
	access.Timeout, access.UserAgent = clusterWithin, "cetrus-secrets/"+release()
	if namespace == "" {
		text, err := os.ReadFile(namespaceFile)
		if err != nil {
			return nil, "", config.Problem("namespace", "", "name the namespace of the secrets")
		}
		namespace = strings.TrimSpace(string(text))
	}
	c, err := newCluster(access, namespace, installation)
	return c, namespace, err
}

func newCluster(access *rest.Config, namespace, installation string) (*cluster, error) {
	// Not the typed client: that knows all that there is in Kubernetes, and weighs 16 MB more.
	known := runtime.NewScheme()
	if err := corev1.AddToScheme(known); err != nil {
		return nil, errs.Wrap("cetrus secrets", "", err)
	}
	access.APIPath, access.GroupVersion = "/api", &corev1.SchemeGroupVersion
	access.NegotiatedSerializer = serializer.NewCodecFactory(known).WithoutConversion()
	access.QPS = -1 // each is asked for once
	api, err := rest.RESTClientFor(access)
	if err != nil {
		return nil, errs.Wrap("cetrus secrets", "", err)
	}
	return &cluster{api: api, namespace: namespace, installation: installation, seen: make(map[string]*corev1.Secret)}, nil
}

// do asks for a Secret, or has something done to it. One that is made has its name in what is sent.
func (c *cluster) do(ctx context.Context, request *rest.Request, name string, sent *corev1.Secret) (*corev1.Secret, error) {
	request = request.Namespace(c.namespace).Resource("secrets")
	if name != "" {
		request = request.Name(name)
	}
	if sent != nil {
		request = request.Body(sent)
	}
	secret := &corev1.Secret{}
	return secret, request.Do(ctx).Into(secret)
}

// fail says what can be done about an error of Kubernetes.
func (c *cluster) fail(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsForbidden(err):
		return errs.As(errs.Denied, "cetrus secrets", "Secret "+name, "may not be used: its Role has to allow get, create and update on Secrets", err)
	case apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err):
		return errs.As(errs.Conflict, "cetrus secrets", "Secret "+name, "was made or changed by another at the same time: run this again", err)
	default:
		return errs.As(errs.Unavailable, "cetrus secrets", "Secret "+name, "Kubernetes does not do what is asked for", err)
	}
}

func (c *cluster) get(ctx context.Context, name string) (map[string][]byte, error) {
	secret, err := c.do(ctx, c.api.Get(), name, nil)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, c.fail(name, err)
	}
	c.seen[name] = secret
	if secret.Data == nil {
		return map[string][]byte{}, nil
	}
	return secret.Data, nil
}

func (c *cluster) create(ctx context.Context, name string, files map[string][]byte, tls bool) error {
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			"app.kubernetes.io/name": "cetrus", "app.kubernetes.io/part-of": "cetrus", "app.kubernetes.io/managed-by": "cetrus-secrets",
		}},
		Type: corev1.SecretTypeOpaque,
		Data: files,
	}
	if c.installation != "" {
		secret.Labels["app.kubernetes.io/instance"] = c.installation
	}
	if tls {
		secret.Type = corev1.SecretTypeTLS
	}
	_, err := c.do(ctx, c.api.Post(), "", secret)
	return c.fail(name, err)
}

func (c *cluster) update(ctx context.Context, name string, files map[string][]byte) error {
	secret := c.seen[name].DeepCopy()
	maps.Copy(secret.Data, files)
	_, err := c.do(ctx, c.api.Put(), name, secret)
	return c.fail(name, err)
}

func (c *cluster) remove(ctx context.Context, name string) error {
	err := c.api.Delete().Namespace(c.namespace).Resource("secrets").Name(name).Do(ctx).Error() // what answers is no Secret
	if apierrors.IsNotFound(err) {
		return nil
	}
	return c.fail(name, err)
}
