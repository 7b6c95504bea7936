import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { SqlAdapter } from '../../src/adapters/adapter.ts'
import { OwnConnection } from '../../src/adapters/own-connection.ts'
import { DatabaseError } from '../../src/base/errors.ts'
import { mysqlStore } from '../../src/engines/mysql/store.ts'
import { postgresStore } from '../../src/engines/postgres/store.ts'
import { withRetries } from '../../src/process/store/retries.ts'
import { EXCLUSIVE, type Hold, type Store } from '../../src/protocol/store.ts'
import type { Connected } from '../adapters.ts'
import type { OpenEngine } from '../engines.ts'
import { deadlocksIn } from './deadlocks.ts'
import { servedEngines } from './one-per-engine.ts'

const onPool = (adapter: SqlAdapter<unknown>) =>
  new OwnConnection(adapter as SqlAdapter<never>, { enabled: false, timeoutMs: 5000 })

const CLIENTS = 8
const FOR_MS = 3000
const TTL_MS = 60_000
const TIMEOUT_MS = 5000
/** Few enough for most statements to meet others. */
const NAMES = Array.from({ length: 30 }, (_, index) => `race:${String(index).padStart(2, '0')}`)

describe.each(servedEngines)('on $name', (engine) => {
  let open: OpenEngine

  beforeAll(async () => {
    open = await engine.open()
  })

  afterAll(() => open.close())

  it('clients whose batches overlap, at full speed, share locks one by one, without a deadlock', async () => {
    const referee = new Referee()
    const clients = await Promise.all(
      Array.from({ length: CLIENTS }, async () => new Client(await open.connect({ poolSize: 2 }), referee)),
    )
    const end = performance.now() + FOR_MS
    await Promise.all(
      clients.map(async (client) => {
        while (performance.now() < end) await client.doAnything()
      }),
    )
    // Nobody comes any more, and nobody leaves: whoever waits is served.
    while (clients.some((client) => client.waits || client.holds.size > 0)) {
      await Promise.all(
        clients.map(async (client) => {
          await client.poll()
          await client.release([...client.holds.values()])
        }),
      )
    }

    expect(referee.wrongs).toEqual([])
    expect(referee.conflicts).toEqual([])
    expect(await deadlocksIn(open)).toBe(0)
    expect(referee.grants).toBeGreaterThan(NAMES.length)
    const views = await clients[0]!.store.poll(NAMES)
    expect(views.filter(({ holders, tickets }) => holders.length > 0 || tickets.length > 0)).toEqual([])
  })
})

/** Knows who holds each lock, as far as that has been heard. */
class Referee {
  readonly wrongs: string[] = []
  readonly conflicts: unknown[] = []
  grants = 0
  readonly #holders = new Map<string, Client>()
  readonly #tokens = new Map<string, bigint>()

  granted(client: Client, { name, token }: Hold): void {
    this.grants++
    if (this.#holders.has(name)) this.wrongs.push(`two hold ${name}`)
    if (token <= (this.#tokens.get(name) ?? 0n)) this.wrongs.push(`the token of ${name} did not rise`)
    this.#holders.set(name, client)
    this.#tokens.set(name, token)
  }

  /** Called before the request is sent. */
  releasing({ name }: Hold): void {
    this.#holders.delete(name)
  }

  expect(what: string, outcome: string, allowed: readonly string[]): void {
    if (!allowed.includes(outcome)) this.wrongs.push(`${what}: ${outcome}`)
  }
}

/** One process, as the database sees it. */
class Client {
  readonly store: Store<unknown>
  readonly holds = new Map<string, Hold>()
  readonly #releasing = new Map<string, Hold>()
  /** Callers who wait, by ticket. */
  readonly #tickets = new Map<string, { readonly name: string; callers: number }>()
  readonly #process = (randomBytes(8).readBigInt64BE() >> 1n).toString()
  readonly #connected: Connected
  readonly #referee: Referee

  constructor(connected: Connected, referee: Referee) {
    const adapter = connected.adapter as SqlAdapter<unknown>
    const own = onPool(adapter)
    const store = adapter.engine === 'mysql' ? mysqlStore(adapter, {}, own) : postgresStore(adapter, {}, own)
    this.store = withRetries(store, TIMEOUT_MS)
    this.#connected = connected
    this.#referee = referee
  }

  get waits(): boolean {
    return this.#tickets.size > 0 || this.#releasing.size > 0
  }

  async doAnything(): Promise<void> {
    const holds = [...this.holds.values()]
    const verbs = [
      () => this.acquire(),
      () => this.enqueue(),
      () => this.poll(),
      () => this.release(sample(holds)),
      () => this.withdraw(),
      () => this.renew(holds),
      () => this.guard(holds),
    ]
    await verbs[Math.floor(Math.random() * verbs.length)]!()
  }

  async acquire(): Promise<void> {
    const owner = randomBytes(16).toString('hex')
    const attempts = sample(this.#others()).map((name) => ({ name, ...terms(), owner }))
    const results = await this.#send(() => this.store.acquire(attempts))
    results?.forEach((result, index) => {
      if (result.granted) this.#take({ ...attempts[index]!, token: result.token })
    })
  }

  async enqueue(): Promise<void> {
    const asked = sample(NAMES).map((name) => ({
      name,
      ...terms(),
      count: 1 + Math.floor(Math.random() * 3),
      ticket: randomBytes(8).toString('hex'),
      joins: [...this.#tickets].findLast(([, ticket]) => ticket.name === name)?.[0] ?? null,
      process: this.#process,
      listening: false,
      provenAlive: false,
      transaction: false,
      waitMs: TTL_MS,
    }))
    const results = await this.#send(() => this.store.enqueue(asked, 1_000_000))
    results?.forEach((result, index) => {
      const { name, count, ticket, joins } = asked[index]!
      this.#referee.expect('enqueue', result.outcome, ['queued', 'locked', 'missing'])
      if (result.outcome !== 'queued') return
      if (result.ticket !== ticket && result.ticket !== joins) this.#referee.wrongs.push('queued in a foreign ticket')
      const callers = (this.#tickets.get(result.ticket)?.callers ?? 0) + count
      this.#tickets.set(result.ticket, { name, callers })
    })
  }

  /** Takes what was handed over since, and promotes what is free. */
  async poll(): Promise<void> {
    const names = [...new Set([...this.#tickets.values()].map(({ name }) => name))]
    const expected = new Map(this.#tickets)
    const views = await this.#send(() => this.store.poll(names))
    const handed: Hold[] = []
    for (const {
      name,
      holders: [holder],
      tickets,
    } of views ?? []) {
      const ticket = holder?.owner.slice(0, 16) ?? ''
      const isNew = holder !== undefined && holder.token !== this.holds.get(name)?.token && !this.#releasing.has(name)
      if (isNew && this.#tickets.has(ticket)) handed.push(holder)
      // Taken from the queue with its last caller, or together with all tickets of a process that was too slow.
      for (const [id, waiting] of expected) {
        if (waiting.name === name && id !== ticket && !tickets.includes(id)) this.#tickets.delete(id)
      }
    }
    await this.#confirm(handed)
    const free = (views ?? []).filter(({ promotable }) => promotable).map(({ name }) => name)
    const promotions = await this.#send(() => this.store.promote(free, this.#process))
    for (const { outcome, grants } of promotions ?? []) {
      this.#referee.expect('promote', outcome, ['handed over', 'idle', 'held', 'locked'])
      await this.#confirm(grants.filter(({ process }) => process === this.#process))
    }
  }

  async release(holds: readonly Hold[]): Promise<void> {
    const all = [...new Map([...this.#releasing, ...holds.map((hold) => [hold.name, hold] as const)]).values()]
    for (const hold of all) {
      if (this.holds.delete(hold.name)) this.#referee.releasing(hold)
      this.#releasing.set(hold.name, hold)
    }
    const results = await this.#send(() => this.store.release(all, this.#process))
    for (const [index, { outcome }] of results?.entries() ?? []) {
      this.#referee.expect('release', outcome, ['released', 'locked'])
      if (outcome !== 'locked') this.#releasing.delete(all[index]!.name)
    }
  }

  async withdraw(): Promise<void> {
    const byName = new Map([...this.#tickets].map(([ticket, { name, callers }]) => [name, { name, ticket, callers }]))
    const withdrawals = sample([...byName.values()])
      .slice(0, 3)
      .map(({ name, ticket, callers }) => ({ name, ticket, count: 1 + Math.floor(Math.random() * callers) }))
    const results = (await this.#send(() => this.store.withdraw(withdrawals))) ?? []
    for (const [index, { withdrawn }] of results.entries()) {
      if (withdrawn) this.#served(withdrawals[index]!.ticket, withdrawals[index]!.count)
    }
    await this.#confirm(results.flatMap(({ grants }) => grants))
  }

  async renew(holds: readonly Hold[]): Promise<void> {
    const renewals = await this.#send(() => this.store.renew(holds.map((hold) => ({ ...hold, ttlMs: TTL_MS }))))
    for (const { outcome } of renewals ?? []) this.#referee.expect('renew', outcome, ['renewed', 'held'])
  }

  async guard(holds: readonly Hold[]): Promise<void> {
    await this.#connected.transaction(async (tx) => {
      const leases = holds.map((hold) => ({ ...hold, ttlMs: TTL_MS }))
      const results = await this.#send(async () => this.store.guard(tx, leases))
      for (const result of results ?? []) this.#referee.expect('guard', result, ['stands'])
    })
  }

  /** What was handed over lasts only if it is claimed in time; in a look it may be over already. */
  async #confirm(holds: readonly Hold[]): Promise<void> {
    let unknown = holds.filter(({ name }) => !this.holds.has(name) && !this.#releasing.has(name))
    while (unknown.length > 0) {
      const asked = unknown
      const renewals = await this.#send(() => this.store.renew(asked.map((hold) => ({ ...hold, ttlMs: TTL_MS }))))
      unknown = asked.filter((hold, index) => {
        const outcome = renewals?.[index]?.outcome
        if (outcome === 'renewed') {
          this.#served(hold.owner.slice(0, 16), 1)
          this.#take(hold)
        }
        return outcome === 'held' || outcome === undefined
      })
    }
  }

  #take({ name, owner, token }: Hold): void {
    const hold = { name, owner, token }
    this.#referee.granted(this, hold)
    this.holds.set(name, hold)
  }

  /** A hand-off to an ticket without callers comes from a departure that met a locked row: it is taken nevertheless. */
  #served(ticket: string, count: number): void {
    const waiting = this.#tickets.get(ticket)
    if (waiting === undefined) return
    waiting.callers = Math.max(1, waiting.callers - count)
  }

  /** Names that this client neither holds nor waits for. */
  #others(): string[] {
    const waiting = new Set([...this.#tickets.values()].map(({ name }) => name))
    return NAMES.filter((name) => !this.holds.has(name) && !this.#releasing.has(name) && !waiting.has(name))
  }

  async #send<T>(call: () => Promise<T>): Promise<T | undefined> {
    try {
      return await call()
    } catch (error) {
      if (!(error instanceof DatabaseError) || error.failure !== 'conflict') throw error
      this.#referee.conflicts.push(error)
      return undefined
    }
  }
}

function terms() {
  return { ...EXCLUSIVE, ttlMs: TTL_MS, holder: 'race', session: null }
}

/** Some of them, in any order. */
function sample<T>(items: readonly T[]): T[] {
  return items
    .filter(() => Math.random() < 0.4)
    .map((item) => ({ item, at: Math.random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item)
}
