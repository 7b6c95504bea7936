/** As databases compare names: by the bytes of their UTF-8. JavaScript's own order differs beyond the basic plane. */
export function inByteOrder(names: Iterable<string>): string[] {
  return [...names]
    .map((name) => ({ name, bytes: Buffer.from(name) }))
    .sort((a, b) => Buffer.compare(a.bytes, b.bytes))
    .map(({ name }) => name)
}
