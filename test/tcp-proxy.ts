import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export type Direction = 'toServer' | 'toClient'

export type CutOptions = {
  /** How many connections to cut before replies pass again; all, if not given. */
  times?: number
  /** Waits for a request like this, and cuts the reply to it. Otherwise the next reply is cut, whatever it answers. */
  after?: (request: Buffer) => boolean
}

/** A TCP connection to a server that can fail in the ways networks do. All settings hold for connections old and new. */
export type TcpProxy = {
  readonly port: number
  /** The same URL, but through this proxy. */
  through(url: string): string
  /** How many clients are connected now. */
  readonly connections: number
  /** How many connections `cutReplies` has cut. */
  readonly cuts: number
  /**
   * When the server's next reply arrives, both sides are disconnected instead: the server has done what it was asked to, and
   * the client does not know. A protocol that prepares a statement in a round trip of its own is cut there, unless
   * `after` picks the request.
   */
  cutReplies(options?: CutOptions): void
  /** Nothing gets through in this direction, not even the end of a connection; `restore` delivers it late, as TCP does. */
  blackhole(direction?: Direction | 'both'): void
  /** Everything is late by these milliseconds. */
  delay(milliseconds: Partial<Record<Direction, number>>): void
  /** Disconnects all clients that are connected now. */
  disconnect(): void
  /** Ends all that was asked for above. */
  restore(): void
  close(): Promise<void>
}

/** A proxy on a port of its own to the server of a database URL, or to a host and port. */
export async function startProxy(target: string | Address): Promise<TcpProxy> {
  const address = typeof target === 'string' ? addressOf(target) : target
  const faults = new Faults()
  const pairs = new Set<Pair>()
  const disconnect = () => {
    for (const pair of pairs) pair.disconnect()
  }

  const listener = createServer(socketOptions, (client) => {
    const pair = new Pair(client, connect({ ...address, ...socketOptions }), faults)
    pairs.add(pair)
    pair.whenClosed(() => pairs.delete(pair))
  })
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const { port } = listener.address() as AddressInfo

  return {
    port,
    through: (url) => withAddress(url, '127.0.0.1', port),
    get connections() {
      return [...pairs].filter((pair) => pair.hasClient).length
    },
    get cuts() {
      return faults.cuts
    },
    cutReplies: ({ times = Number.POSITIVE_INFINITY, after } = {}) => {
      faults.cut = { timesLeft: times, after }
    },
    blackhole: (direction = 'both') => {
      if (direction !== 'toClient') faults.held.toServer = true
      if (direction !== 'toServer') faults.held.toClient = true
    },
    delay: (milliseconds) => {
      Object.assign(faults.delay, milliseconds)
    },
    disconnect,
    restore: () => {
      faults.end()
      for (const pair of pairs) pair.deliver()
    },
    close: async () => {
      const closed = once(listener, 'close')
      listener.close()
      disconnect()
      await closed
    },
  }
}

type Address = { host: string; port: number }

const defaultPorts: Record<string, number> = { 'postgres:': 5432, 'postgresql:': 5432, 'mysql:': 3306 }

// Each direction ends on its own, so that a blackhole can hold back the end of a connection.
const socketOptions = { allowHalfOpen: true, noDelay: true }

class Faults {
  readonly held: Record<Direction, boolean> = { toServer: false, toClient: false }
  readonly delay: Record<Direction, number> = { toServer: 0, toClient: 0 }
  cut: { timesLeft: number; after: CutOptions['after'] } | null = null
  cuts = 0

  end(): void {
    this.cut = null
    Object.assign(this.held, { toServer: false, toClient: false })
    Object.assign(this.delay, { toServer: 0, toClient: 0 })
  }
}

/** A client's connection and the one to the server that goes with it. */
class Pair {
  readonly #client: Socket
  readonly #server: Socket
  readonly #faults: Faults
  readonly #requests: Flow
  readonly #replies: Flow
  #requestToCut: Faults['cut'] = null

  constructor(client: Socket, server: Socket, faults: Faults) {
    this.#client = client
    this.#server = server
    this.#faults = faults
    this.#requests = new Flow(faults, 'toServer')
    this.#replies = new Flow(faults, 'toClient')
    client.on('data', (bytes) => this.#requests.add(() => this.#request(bytes)))
    server.on('data', (bytes) => this.#reply(bytes))
    passOnEnd(client, server, this.#requests)
    passOnEnd(server, client, this.#replies)
  }

  get hasClient(): boolean {
    return !this.#client.destroyed
  }

  whenClosed(listener: () => void): void {
    const check = () => {
      if (this.#client.closed && this.#server.closed) listener()
    }
    this.#client.once('close', check)
    this.#server.once('close', check)
  }

  deliver(): void {
    this.#requests.deliver()
    this.#replies.deliver()
  }

  disconnect(): void {
    this.#client.destroy()
    this.#server.destroy()
  }

  #request(bytes: Buffer): void {
    if (this.#faults.cut?.after?.(bytes)) this.#requestToCut = this.#faults.cut
    this.#server.write(bytes)
  }

  #reply(bytes: Buffer): void {
    const { cut } = this.#faults
    const isToCut = cut !== null && (cut.after === undefined || cut === this.#requestToCut)
    if (!isToCut) {
      this.#replies.add(() => this.#client.write(bytes))
      return
    }
    this.#faults.cuts += 1
    cut.timesLeft -= 1
    if (cut.timesLeft === 0) this.#faults.cut = null
    this.disconnect()
  }
}

function passOnEnd(from: Socket, to: Socket, flow: Flow): void {
  // 'close' follows, and tells the other side.
  from.on('error', () => {})
  from.on('end', () => flow.add(() => to.end()))
  from.on('close', () => flow.add(() => to.destroySoon()))
}

/** What goes in one direction of one connection: in order, when it is due, and unless it is held. */
class Flow {
  readonly #faults: Faults
  readonly #direction: Direction
  readonly #queue: { send: () => void; due: number }[] = []

  constructor(faults: Faults, direction: Direction) {
    this.#faults = faults
    this.#direction = direction
  }

  add(send: () => void): void {
    this.#queue.push({ send, due: performance.now() + this.#faults.delay[this.#direction] })
    this.deliver()
  }

  deliver(): void {
    for (let next = this.#queue[0]; next !== undefined; next = this.#queue[0]) {
      if (this.#faults.held[this.#direction]) return
      const wait = next.due - performance.now()
      if (wait > 0) {
        setTimeout(() => this.deliver(), wait)
        return
      }
      this.#queue.shift()
      next.send()
    }
  }
}

function addressOf(url: string): Address {
  const { protocol, hostname, port } = new URL(url)
  return { host: hostname, port: Number(port) || (defaultPorts[protocol] ?? 0) }
}

function withAddress(url: string, host: string, port: number): string {
  const changed = new URL(url)
  changed.hostname = host
  changed.port = String(port)
  return changed.href
}
