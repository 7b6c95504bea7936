import { randomInt } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import mysql from 'mysql2/promise'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { fromMysql2 } from '../../src/adapters/mysql2.ts'
import { DatabaseError } from '../../src/base/errors.ts'
import { newOwner } from '../../src/protocol/ids.ts'
import { type Attempt, EXCLUSIVE, type Hold, SHARED, type Store } from '../../src/protocol/store.ts'
import type { Connected } from '../adapters.ts'
import { freshName, type OpenEngine, type TestEngine } from '../engines.ts'
import { storeOn } from '../store/store-on.ts'
import { servedEngines } from './one-per-engine.ts'

const CLIENTS = 20
const PERMITS = 10
const CROWD_MS = 3000
const LONGEST_CROWD_MS = 40_000
const LONG_MS = 60_000
const READER = { weight: SHARED, permits: null } as const
const WRITER = EXCLUSIVE
const taking = (weight: number) => ({ weight, permits: PERMITS })

type Terms = Pick<Attempt, 'weight' | 'permits'>
type Isolation = 'read committed' | 'repeatable read'

/** What clients hold at once, from the answer until they give it up. */
class Watch {
  #taken = 0
  #writers = 0
  #readers = 0
  most = 0
  readonly wrong: string[] = []

  got({ weight, permits }: Terms): void {
    if (weight === null) this.#writers++
    else this.#readers++
    this.#taken += weight ?? 0
    this.most = Math.max(this.most, this.#taken)
    if (this.#writers > 1 || (this.#writers > 0 && this.#readers > 0)) {
      this.wrong.push(`${this.#writers} writers beside ${this.#readers} readers`)
    }
    if (permits !== null && this.#taken > permits) this.wrong.push(`${this.#taken} of ${permits} permits`)
  }

  gone({ weight }: Terms): void {
    if (weight === null) this.#writers--
    else this.#readers--
    this.#taken -= weight ?? 0
  }
}

describe.each(servedEngines)('on $name', (engine) => {
  describe.each(['read committed', 'repeatable read'] as const)('at %s', (isolation) => {
    let open: OpenEngine
    let clients: readonly Client[]
    const closing: (() => Promise<unknown>)[] = []

    beforeAll(async () => {
      open = await engine.open()
      if (engine.engine === 'postgres') {
        const database = new URL(open.url).pathname.slice(1)
        await open.connected.sql(`alter database ${database} set default_transaction_isolation = '${isolation}'`)
      }
      clients = await Promise.all(Array.from({ length: CLIENTS }, () => clientOn(engine, open, isolation, closing)))
    })
    afterAll(async () => {
      for (const close of closing) await close()
      await open.close()
    })

    const sums = async (name: string) => {
      const [row] = await open.connected.sql(
        `select l.used, (select coalesce(sum(s.weight), 0) from rowlock_slots as s where s.name = l.name) as weights
         from rowlock_locks as l where l.name = '${name}'`,
      )
      return { used: Number(row!.used), weights: Number(row!.weights) }
    }

    it('no more permits are taken than there are, by a crowd with weights', { timeout: 60_000 }, async () => {
      const name = freshName()
      const watch = new Watch()
      const tokens: bigint[] = []
      await crowd(
        clients,
        () => watch.most > PERMITS / 2 && tokens.length > PERMITS,
        async ({ store }) => {
          const terms = taking(randomInt(1, 4))
          const hold = await tryAcquire(store, name, terms, LONG_MS)
          if (hold === null) return sleep(randomInt(5))
          watch.got(terms)
          tokens.push(hold.token)
          await sleep(randomInt(100))
          watch.gone(terms)
          await released(store, hold)
        },
      )
      expect(watch.wrong).toEqual([])
      expect(watch.most).toBeGreaterThan(PERMITS / 2)
      expect(tokens.length).toBeGreaterThan(PERMITS)
      expect(new Set(tokens).size).toBe(tokens.length)
      const { used, weights } = await sums(name)
      expect(used).toBe(weights)
    })

    it('more are taken where the count is not made under a lock', { timeout: 60_000 }, async () => {
      const watch = new Watch()
      const key = engine.engine === 'mysql' ? 'int auto_increment primary key' : 'int primary key'
      await open.connected.sql(`create table counted_only (id ${key}, weight int not null)`)
      await crowd(
        clients,
        () => watch.wrong.length > 0,
        async ({ connected }) => {
          const terms = taking(randomInt(1, 4))
          const [row] = await connected.sql('select coalesce(sum(weight), 0) as taken from counted_only')
          if (Number(row!.taken) + terms.weight > PERMITS) return sleep(randomInt(5))
          const mark = randomInt(1_000_000_000)
          await connected.sql(`insert into counted_only (id, weight) values (${mark}, ${terms.weight})`)
          watch.got(terms)
          await sleep(randomInt(100))
          watch.gone(terms)
          await connected.sql(`delete from counted_only where id = ${mark}`)
        },
      )
      await open.connected.sql('drop table counted_only')
      expect(watch.wrong).not.toEqual([])
    })

    it('readers come beside readers, and a writer alone', { timeout: 60_000 }, async () => {
      const name = freshName()
      const watch = new Watch()
      let writers = 0
      await crowd(
        clients,
        () => watch.most > 1 && writers > 0,
        async ({ store }, index) => {
          const terms = index % 4 === 0 ? WRITER : READER
          const hold = await tryAcquire(store, name, terms, LONG_MS)
          if (hold === null) return sleep(randomInt(10))
          watch.got(terms)
          if (terms === WRITER) writers++
          await sleep(randomInt(terms === WRITER ? 5 : 50))
          watch.gone(terms)
          await released(store, hold)
          // So that there is a moment for a writer.
          await sleep(randomInt(100))
        },
      )
      expect(watch.wrong).toEqual([])
      expect(watch.most).toBeGreaterThan(1)
      expect(writers).toBeGreaterThan(0)
      const { used, weights } = await sums(name)
      expect(used).toBe(weights)
    })

    it('what a transaction guards counts until it ends, although it runs out', { timeout: 60_000 }, async () => {
      const name = freshName()
      const watch = new Watch()
      let guarded = 0
      const ttlMs = 300
      await crowd(
        clients,
        () => guarded > PERMITS,
        async ({ store, transaction }, index) => {
          const terms = index % 4 === 0 ? WRITER : READER
          const hold = await tryAcquire(store, name, terms, ttlMs)
          if (hold === null) return sleep(randomInt(20))
          const guarding = transaction(async (tx) => {
            const [result] = await store.guard(tx, [{ ...hold, ttlMs }])
            if (result !== 'stands') return
            watch.got(terms)
            guarded++
            await sleep(randomInt(2 * ttlMs))
            watch.gone(terms)
          })
          // At REPEATABLE READ a guard fails whose row has changed since the snapshot.
          await guarding.catch((error) => expect(error).toMatchObject({ code: 'TRANSACTION_ABORTED' }))
          if (randomInt(2) === 0) await repeated(() => store.release([hold], '1'))
          await sleep(randomInt(100))
        },
      )
      expect(watch.wrong).toEqual([])
      expect(guarded).toBeGreaterThan(PERMITS)
      const { used, weights } = await sums(name)
      expect(used).toBe(weights)
    })

    it('a writer that tries while the guard of a reader is open does not get in, and does after it', async () => {
      const name = freshName()
      const [one, two] = clients as [Client, Client]
      const reader = (await tryAcquire(one.store, name, READER, 100))!
      let tries = 0
      await one.transaction(async (tx) => {
        expect(await one.store.guard(tx, [{ ...reader, ttlMs: 100 }])).toEqual(['stands'])
        await expect.poll(async () => (await two.store.poll([name]))[0]?.holders).toEqual([])
        for (const until = Date.now() + 300; Date.now() < until; tries++) {
          expect(await tryAcquire(two.store, name, WRITER, LONG_MS)).toBeNull()
        }
      })
      expect(tries).toBeGreaterThan(1)
      // The guard has renewed it with the commit.
      await expect.poll(() => tryAcquire(two.store, name, WRITER, LONG_MS)).not.toBeNull()
    })

    it.each([{ commit: true }, { commit: false }])(
      'what a transaction has adopted counts until it ends, commit: $commit',
      async ({ commit }) => {
        const name = freshName()
        const [one, two, three] = clients as [Client, Client, Client]
        const undo = new Error('undo')
        const ends: Promise<unknown>[] = []
        const adopt = async (client: Client) => {
          const hold = (await tryAcquire(three.store, name, READER, 200))!
          let end!: () => void
          const ending = new Promise<void>((resolve) => {
            end = resolve
          })
          await new Promise<void>((resolve, reject) => {
            const done = client.transaction(async (tx) => {
              expect(await client.store.adoptIn(tx, hold)).toBe('stands')
              resolve()
              await ending
              if (!commit) throw undo
            })
            done.catch((error) => (error === undo ? undefined : reject(error)))
            ends.push(done.catch(() => undefined))
          })
          return end
        }
        const end = await adopt(one)
        const endOther = await adopt(two)
        await expect.poll(async () => (await three.store.poll([name]))[0]?.holders).toEqual([])
        expect(await tryAcquire(three.store, name, WRITER, LONG_MS)).toBeNull()
        const reader = (await tryAcquire(three.store, name, READER, LONG_MS))!
        await released(three.store, reader)
        end()
        await ends[0]
        expect(await tryAcquire(three.store, name, WRITER, LONG_MS)).toBeNull()
        endOther()
        await ends[1]
        expect(await tryAcquire(three.store, name, WRITER, LONG_MS)).not.toBeNull()
      },
    )

    it.each([READER, taking(4)])(
      'an attempt that is sent twice at once is granted once: weight $weight',
      async (terms) => {
        const [one, two] = clients as [Client, Client]
        for (let round = 0; round < 20; round++) {
          const name = freshName()
          const asked = { ...terms, name, owner: newOwner(), ttlMs: LONG_MS, holder: 'test', session: null }
          const attempt = async ({ store }: Client) => (await repeated(() => store.acquire([asked])))[0]!
          const answers = await Promise.all([one, two].map(attempt))
          const again = await attempt(one)
          expect(again).toMatchObject({ granted: true, slot: expect.any(Number) })
          for (const answer of answers) if (answer.granted) expect(answer).toEqual(again)
          const { used, weights } = await sums(name)
          expect({ used, weights }).toEqual({ used: terms.weight, weights: terms.weight })
        }
      },
    )

    it('a hand-off goes to as many as fit, and each of a crowd gets its turn', { timeout: 60_000 }, async () => {
      const name = freshName()
      const watch = new Watch()
      const TURNS = 5
      await Promise.all(
        clients.map(async ({ store }, index) => {
          for (let turn = 0; turn < TURNS; turn++) {
            const terms = taking(1 + ((index + turn) % 3))
            const hold = (await tryAcquire(store, name, terms, LONG_MS)) ?? (await waitFor(store, name, terms, index))
            watch.got(terms)
            await sleep(randomInt(5))
            watch.gone(terms)
            await released(store, hold)
          }
        }),
      )
      expect(watch.wrong).toEqual([])
      const { used, weights } = await sums(name)
      expect(used).toBe(weights)
      expect(await clients[0]!.store.available(name)).toBe(PERMITS)
    })
  })
})

interface Client {
  readonly store: Store<unknown>
  readonly connected: Pick<Connected, 'sql'>
  transaction(body: (tx: unknown) => Promise<unknown>): Promise<unknown>
}

async function clientOn(
  engine: TestEngine,
  open: OpenEngine,
  isolation: Isolation,
  closing: (() => Promise<unknown>)[],
): Promise<Client> {
  const connected = await open.connect({ poolSize: 2 })
  const transaction = (body: (tx: unknown) => Promise<unknown>) => connected.transaction(body, isolation)
  if (engine.engine !== 'mysql') return { store: storeOn(connected.adapter), connected, transaction }
  const pool = mysql.createPool({ uri: open.url, connectionLimit: 2 })
  pool.pool.on('connection', (connection) => connection.query(`set session transaction isolation level ${isolation}`))
  closing.push(() => pool.end())
  return { store: storeOn(fromMysql2(pool) as never), connected, transaction }
}

/** All at once, again and again, and for longer where the machine is slow, until it proves something. */
async function crowd(
  clients: readonly Client[],
  isEnough: () => boolean,
  turn: (client: Client, index: number) => Promise<unknown>,
) {
  const from = Date.now()
  const isOver = () => Date.now() > from + (isEnough() ? CROWD_MS : LONGEST_CROWD_MS)
  await Promise.all(
    clients.map(async (client, index) => {
      while (!isOver()) await turn(client, index)
    }),
  )
}

/** What had no effect is repeated, as a process does. */
async function repeated<T>(call: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await call()
    } catch (error) {
      if (!(error instanceof DatabaseError) || error.failure !== 'conflict') throw error
      await sleep(randomInt(1, 8))
    }
  }
}

async function tryAcquire(store: Store<unknown>, name: string, terms: Terms, ttlMs: number): Promise<Hold | null> {
  const owner = newOwner()
  const asked = { ...terms, name, owner, ttlMs, holder: 'test', session: null }
  const [result] = await repeated(() => store.acquire([asked]))
  if (!result!.granted) return null
  const { token, slot } = result!
  return { name, owner, token, ...(slot !== undefined && { slot }) }
}

async function released(store: Store<unknown>, hold: Hold): Promise<void> {
  for (;;) {
    const [result] = await repeated(() => store.release([hold], '1'))
    if (result!.outcome !== 'locked') {
      expect(result!.outcome).toBe('released')
      return
    }
    await sleep(randomInt(1, 8))
  }
}

let tickets = 0

/** Queues, and looks until it is handed over. Who missed a hand-off, as the machine stood still, queues again. */
async function waitFor(store: Store<unknown>, name: string, terms: Terms, index: number): Promise<Hold> {
  for (;;) {
    const hold = await waitOnce(store, name, terms, index)
    if (hold !== undefined) return hold
  }
}

async function waitOnce(store: Store<unknown>, name: string, terms: Terms, index: number): Promise<Hold | undefined> {
  const ticket = (++tickets).toString(16).padStart(16, '0')
  const asked = {
    ...{ ...terms, name, ticket, count: 1, joins: null, ttlMs: LONG_MS, waitMs: LONG_MS, holder: 'test' },
    ...{ session: null, process: `${index}`, listening: false, provenAlive: false, transaction: false },
  }
  for (;;) {
    const [queued] = await repeated(() => store.enqueue([asked], 1000))
    if (queued!.outcome === 'queued') break
    await sleep(randomInt(1, 8))
  }
  for (;;) {
    const [view] = await store.poll([name])
    const holder = view!.holders.find(({ owner }) => owner.startsWith(ticket))
    if (holder !== undefined) {
      const { owner, token, slot } = holder
      const hold = { name, owner, token, ...(slot !== undefined && { slot }) }
      const [renewal] = await repeated(() => store.renew([{ ...hold, ttlMs: LONG_MS }]))
      return renewal!.outcome === 'lost' ? undefined : hold
    }
    if (!view!.tickets.includes(ticket)) return undefined
    if (view!.promotable) await repeated(() => store.promote([name], `${index}`))
    await sleep(randomInt(2, 10))
  }
}
