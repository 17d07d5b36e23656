// Sends spans with OpenTelemetry's JavaScript SDK to several receivers at once.
//
//     node sender.js COUNT PROTOCOL:COMPRESSION:HOST:PORT ...
//
// PROTOCOL is grpc, http (protobuf) or json, COMPRESSION gzip or none. Exits with 0 when every receiver took everything.
const { context, trace, SpanStatusCode } = require("@opentelemetry/api");
const { resourceFromAttributes } = require("@opentelemetry/resources");
const { BasicTracerProvider, BatchSpanProcessor } = require("@opentelemetry/sdk-trace-base");

const packages = {
  grpc: "@opentelemetry/exporter-trace-otlp-grpc",
  http: "@opentelemetry/exporter-trace-otlp-proto",
  json: "@opentelemetry/exporter-trace-otlp-http",
};

let failed = 0;

function processor(target, count) {
  const [protocol, compression, ...address] = target.split(":");
  const { OTLPTraceExporter } = require(packages[protocol]);
  const path = protocol === "grpc" ? "" : "/v1/traces";
  const exporter = new OTLPTraceExporter({ url: `http://${address.join(":")}${path}`, compression });
  const send = exporter.export.bind(exporter);
  exporter.export = (spans, done) =>
    send(spans, (result) => {
      failed += result.code;
      done(result);
    });
  return new BatchSpanProcessor(exporter, { maxQueueSize: count + 100, maxExportBatchSize: 100 });
}

async function main() {
  const count = Number(process.argv[2]);
  const provider = new BasicTracerProvider({
    resource: resourceFromAttributes({ "service.name": "node-sender", "service.shards": 3 }),
    spanProcessors: process.argv.slice(3).map((target) => processor(target, count)),
  });
  const tracer = provider.getTracer("sender", "1.2");
  let previous;
  for (let number = 0; number < count; number++) {
    const above = number % 3 ? trace.setSpanContext(context.active(), previous) : context.active();
    const links = previous ? [{ context: previous, attributes: { near: true } }] : [];
    const attributes = {
      text: `größe ${number}`,
      number: -number,
      share: number / 7,
      even: number % 2 === 0,
      list: ["a", "", "ü"],
    };
    const span = tracer.startSpan(`operation ${number}`, { kind: number % 5, links, attributes }, above);
    span.addEvent("something", { at: number });
    if (number % 2) span.setStatus({ code: SpanStatusCode.ERROR, message: "went wrong" });
    previous = span.spanContext();
    span.end();
  }
  await provider.shutdown();
  process.exit(failed ? 1 : 0);
}

main();
