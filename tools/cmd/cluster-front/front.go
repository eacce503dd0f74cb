package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/rest"
)

const speaksHTTPS = "nginx.ingress.kubernetes.io/backend-protocol"

// front knows what the cluster's Ingresses say.
type front struct {
	ingresses networkinglisters.IngressLister
	services  corelisters.ServiceLister
	secrets   corelisters.SecretLister
	fallback  *tls.Certificate
	transport *http.Transport
	log       *slog.Logger
}

func run(ctx context.Context, log *slog.Logger) error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	fallback, err := selfSigned()
	if err != nil {
		return err
	}
	shared := informers.NewSharedInformerFactory(client, 0)
	f := &front{
		ingresses: shared.Networking().V1().Ingresses().Lister(), services: shared.Core().V1().Services().Lister(),
		secrets: shared.Core().V1().Secrets().Lister(), fallback: fallback, log: log,
		// As ingress-nginx does unless it is told to verify.
		transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true},
	}
	shared.StartWithContext(ctx)
	for kind, synced := range shared.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return fmt.Errorf("reading %v: %w", kind, ctx.Err())
		}
	}
	secure := &http.Server{
		Addr: ":8443", Handler: f, ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{GetCertificate: f.certificate, MinVersion: tls.VersionTLS12},
	}
	plain := &http.Server{Addr: ":8080", Handler: http.HandlerFunc(redirect), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 2)
	go func() { ended <- secure.ListenAndServeTLS("", "") }()
	go func() { ended <- plain.ListenAndServe() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return errors.Join(secure.Close(), plain.Close())
	}
}

func redirect(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" && r.Host != "" {
		_, _ = fmt.Fprintln(w, "ok")
		return
	}
	http.Redirect(w, r, "https://"+r.Host+r.URL.RequestURI(), http.StatusPermanentRedirect)
}

// certificate is that of the Ingress for a name, or one that nobody trusts.
func (f *front) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	all, err := f.ingresses.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	for _, ingress := range all {
		for _, entry := range ingress.Spec.TLS {
			for _, host := range entry.Hosts {
				if host != hello.ServerName || entry.SecretName == "" {
					continue
				}
				secret, err := f.secrets.Secrets(ingress.Namespace).Get(entry.SecretName)
				if err != nil {
					f.log.Warn("an Ingress names a certificate that is not there", "ingress", ingress.Name, "error", err)
					continue
				}
				pair, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
				if err != nil {
					return nil, fmt.Errorf("secret %s/%s: %w", secret.Namespace, secret.Name, err)
				}
				return &pair, nil
			}
		}
	}
	return f.fallback, nil
}

// ServeHTTP hands a request to the Service that the longest path for its host leads to.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	target, err := f.target(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	proxy := &httputil.ReverseProxy{
		Transport: f.transport,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.SetXForwarded()
			p.Out.Host = p.In.Host
		},
		FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			f.log.Warn("a Service does not answer", "target", target.String(), "error", err)
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	proxy.ServeHTTP(w, r)
}

func (f *front) target(r *http.Request) (*url.URL, error) {
	all, err := f.ingresses.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	host, _, _ := strings.Cut(r.Host, ":")
	var from *networkingv1.Ingress
	var best *networkingv1.HTTPIngressPath
	for _, ingress := range all {
		for _, rule := range ingress.Spec.Rules {
			if rule.HTTP == nil || rule.Host != "" && rule.Host != host {
				continue
			}
			for i, path := range rule.HTTP.Paths {
				if covers(path, r.URL.Path) && (best == nil || len(path.Path) > len(best.Path)) {
					from, best = ingress, &rule.HTTP.Paths[i]
				}
			}
		}
	}
	if best == nil || best.Backend.Service == nil {
		return nil, fmt.Errorf("no Ingress is for %s%s", host, r.URL.Path)
	}
	backend := best.Backend.Service
	service, err := f.services.Services(from.Namespace).Get(backend.Name)
	if err != nil {
		return nil, err
	}
	target := &url.URL{Scheme: "http"}
	if strings.EqualFold(from.Annotations[speaksHTTPS], "HTTPS") {
		target.Scheme = "https"
	}
	for _, port := range service.Spec.Ports {
		if backend.Port.Name != "" && port.Name == backend.Port.Name || backend.Port.Name == "" && port.Port == backend.Port.Number {
			target.Host = fmt.Sprintf("%s:%d", service.Spec.ClusterIP, port.Port)
			return target, nil
		}
	}
	return nil, fmt.Errorf("service %s/%s has no port %q", from.Namespace, backend.Name, backend.Port.String())
}

// covers tells whether an Ingress's path is for one that was asked for.
func covers(path networkingv1.HTTPIngressPath, asked string) bool {
	if path.PathType != nil && *path.PathType == networkingv1.PathTypeExact {
		return path.Path == asked
	}
	prefix := strings.TrimSuffix(path.Path, "/")
	return asked == prefix || strings.HasPrefix(asked, prefix+"/")
}

func selfSigned() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nobody in particular"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
