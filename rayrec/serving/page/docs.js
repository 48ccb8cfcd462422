// The description of the API, made from /openapi.json: each endpoint with its request, its answer and a command that tries it.

const { paths, components } = await (await fetch("/openapi.json")).json();

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

const named = (reference) => components.schemas[reference?.split("/").pop()];
const schemaOf = (content) => content?.["application/json"]?.schema ?? {};

// The fields of an object as a list; the fields of nested objects are nested lists.
function fields(schema) {
  const object = named(schema.$ref) ?? named(schema.items?.$ref) ?? schema;
  const lines = Object.entries(object.properties ?? {}).map(([name, field]) => {
    const kinds = (field.anyOf ?? [field]).filter((kind) => kind.type !== "null");
    const words = kinds.map((kind) => kind.enum?.join(" | ") ?? (kind.type === "array" ? "list" : kind.type) ?? "object").join(" or ");
    const need = object.required?.includes(name) ? "" : ", optional";
    const inside = kinds.map((kind) => (kind.$ref || kind.items?.$ref ? fields(kind) : "")).filter(Boolean);
    return element("li", `${name} (${words}${need})${field.description ? `: ${field.description}` : ""}`, ...inside);
  });
  return lines.length ? element("ul", "", ...lines) : "";
}

for (const [path, methods] of Object.entries(paths)) {
  for (const [method, endpoint] of Object.entries(methods)) {
    const section = element("section", "", element("h2", `${method.toUpperCase()} ${path}`), element("p", endpoint.summary));
    section.className = "endpoint";
    if (endpoint.description) section.append(element("p", endpoint.description));
    const request = schemaOf(endpoint.requestBody?.content);
    const answer = schemaOf(endpoint.responses["200"]?.content);
    for (const [title, list] of [["Request", fields(request)], ["Answer", fields(answer)]]) {
      if (list) section.append(element("p", title), list);
    }
    const example = named(request.$ref)?.examples?.[0];
    const body = example ? ` \\\n  -H 'Content-Type: application/json' -d '${JSON.stringify(example)}'` : "";
    section.append(element("pre", `curl ${location.origin}${path}${body}`));
    document.getElementById("endpoints").append(section);
  }
}
