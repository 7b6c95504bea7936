import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

/** A way to a server on which the messages that ask for an answer are counted: as many as there are round trips. */
export interface Counted {
  /** The same URL, but counted. */
  readonly url: string
  readonly messages: number
  close(): Promise<void>
}

/** Told of what a client sends, in parts of any size, it answers how many messages have been completed by that. */
type Counter = (bytes: Buffer) => number

const COUNTERS: Readonly<Record<string, () => Counter>> = { 'postgres:': countPostgres, 'mysql:': countMysql }

export async function counted(url: string): Promise<Counted> {
  const { protocol, hostname, port } = new URL(url)
  const counter = COUNTERS[protocol]!
  const sockets = new Set<Socket>()
  let messages = 0
  const listener = createServer((client) => {
    const server = connect(Number(port), hostname)
    const count = counter()
    client.on('data', (bytes) => {
      messages += count(bytes)
    })
    for (const [from, to] of [
      [client, server],
      [server, client],
    ] as const) {
      sockets.add(from)
      from.setNoDelay(true)
      from.on('error', () => to.destroy())
      from.on('close', () => sockets.delete(from))
      from.pipe(to)
    }
  })
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const through = new URL(url)
  through.hostname = '127.0.0.1'
  through.port = String((listener.address() as AddressInfo).port)
  return {
    url: through.href,
    get messages() {
      return messages
    },
    async close() {
      listener.close()
      for (const socket of sockets) socket.destroy()
    },
  }
}

const QUERY = 'Q'.charCodeAt(0)
const SYNC = 'S'.charCodeAt(0)

/** The server answers a simple query, or all that comes before a Sync. The first message has no type. */
function countPostgres(): Counter {
  let hasBegun = false
  return packets((bytes) => {
    const header = hasBegun ? 5 : 4
    if (bytes.length < header) return undefined
    const length = bytes.readInt32BE(header - 4) + header - 4
    const asks = hasBegun && (bytes[0] === QUERY || bytes[0] === SYNC)
    if (bytes.length >= length) hasBegun = true
    return { length, asks }
  })
}

const MYSQL_HEADER = 4
const QUIT = 1

/** A command is the first packet of its sequence; those of the handshake are not. */
function countMysql(): Counter {
  return packets((bytes) => {
    if (bytes.length < MYSQL_HEADER + 1) return undefined
    return {
      length: bytes.readUIntLE(0, 3) + MYSQL_HEADER,
      asks: bytes[MYSQL_HEADER - 1] === 0 && bytes[MYSQL_HEADER] !== QUIT,
    }
  })
}

/** Puts packets together; `next` tells the length of the first one, if its header is there. */
function packets(next: (bytes: Buffer) => { readonly length: number; readonly asks: boolean } | undefined): Counter {
  let rest: Buffer = Buffer.alloc(0)
  return (bytes) => {
    rest = Buffer.concat([rest, bytes])
    let asked = 0
    for (let packet = next(rest); packet !== undefined && rest.length >= packet.length; packet = next(rest)) {
      if (packet.asks) asked++
      rest = rest.subarray(packet.length)
    }
    return asked
  }
}
