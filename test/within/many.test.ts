import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { createLocks, isTransactionAborted } from '../../src/index.ts'
import { connectors } from '../adapters.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { servedEngines } from '../race/one-per-engine.ts'
import { endProcesses, startWorker } from '../race/processes.ts'
import { startProxy } from '../tcp-proxy.ts'
import { addUp, counted, createCounters, startCounter } from './add-up.ts'

/** Longer than a test may take: nobody gives up, and what hangs is seen to. */
const LONG = { ttl: '20s', wait: '5m' } as const

afterEach(endProcesses)

describe.each(servedEngines)('transactions that want one lock on $name', { timeout: 60_000 }, (engine) => {
  let open: OpenEngine
  /** Snapshots of PostgreSQL are another matter. */
  const levels = engine.isolations.filter((level) =>
    engine.engine === 'postgres' ? level === 'read committed' : level !== 'serializable',
  )

  beforeAll(async () => {
    open = await engine.open()
    await createCounters(open.connected)
  })
  afterAll(() => open.close())

  async function names(count: number): Promise<string[]> {
    const made = Array.from({ length: count }, () => freshName())
    for (const name of made) await startCounter(open.connected, name)
    return made
  }

  async function process(poolSize: number) {
    const connected = await open.connect({ poolSize })
    return { connected, locks: createLocks(connected.adapter, LONG) }
  }

  async function expectCounted(names: readonly string[], count: number): Promise<void> {
    for (const name of names) expect(await counted(open.connected, name)).toBe(count)
    // Nothing is left behind.
    const { locks } = await process(1)
    for (const name of names) expect(await (await locks.acquire(name, { wait: 0 })).release()).toBe(true)
    await locks.close()
  }

  describe.each(levels)('at %s', (isolation) => {
    it.each([
      { poolSize: 1, transactions: 20 },
      { poolSize: 2, transactions: 40 },
      { poolSize: 4, transactions: 64 },
      { poolSize: 10, transactions: 200 },
      { poolSize: 50, transactions: 100 },
    ])('$transactions have it one after the other, with a pool of $poolSize', async ({ poolSize, transactions }) => {
      const wanted = await names(1)
      await using own = await process(poolSize).then(closed)
      expect(await addUp(own, { transactions, names: [wanted], isolation })).toEqual({ aborted: 0, failed: [] })
      await expectCounted(wanted, transactions)
    })

    it('none is aborted whose process has yet to connect to a server that is far away', async () => {
      const [name] = await names(1)
      const proxy = await startProxy(open.url)
      try {
        // To open a connection takes several round trips, and longer than a transaction waits for one of the pool's.
        proxy.delay({ toServer: 100, toClient: 100 })
        const connected = await connectors[engine.connector](proxy.through(open.url) as never, { poolSize: 4 })
        await using own = closed({ connected, locks: createLocks(connected.adapter, LONG) })
        expect(await addUp(own, { transactions: 4, names: [[name!]], isolation })).toEqual({ aborted: 0, failed: [] })
      } finally {
        await proxy.close()
      }
      await expectCounted([name!], 4)
    })

    it('100 do with ten locks what they do with one', async () => {
      const wanted = await names(10)
      await using own = await process(10).then(closed)
      const plan = { transactions: 100, names: wanted.map((name) => [name]), isolation }
      expect(await addUp(own, plan)).toEqual({ aborted: 0, failed: [] })
      await expectCounted(wanted, 10)
    })

    it('60 that take two locks in one order do not deadlock', async () => {
      const wanted = await names(2)
      await using own = await process(10).then(closed)
      expect(await addUp(own, { transactions: 60, names: [wanted], isolation })).toEqual({ aborted: 0, failed: [] })
      await expectCounted(wanted, 60)
    })

    it('12 that take two locks in opposite orders are aborted at worst, and all succeed in the end', async ({
      onTestFinished,
    }) => {
      const wanted = await names(2)
      const database = new URL(open.url).pathname.slice(1)
      // A second, by default, until the engine looks for each circle.
      if (engine.engine === 'postgres') {
        await open.connected.sql(`alter database ${database} set deadlock_timeout = '100ms'`)
        onTestFinished(async () => void (await open.connected.sql(`alter database ${database} reset deadlock_timeout`)))
      }
      await using own = await process(4).then(closed)
      const plan = { transactions: 12, names: [wanted, [...wanted].reverse()], isolation, retried: true }
      expect((await addUp(own, plan)).failed).toEqual([])
      await expectCounted(wanted, 12)
    })

    it('120 of three processes have it one after the other, with pools of 4', async () => {
      const wanted = await names(1)
      const options = { ...LONG, poolSize: 4 }
      const workers = await Promise.all(Array.from({ length: 3 }, () => startWorker(engine, open.url, { options })))
      const plan = { transactions: 40, names: [wanted], isolation }
      const sums = await Promise.all(workers.map((worker) => worker.call('addUp', plan)))
      expect(sums).toEqual(workers.map(() => ({ aborted: 0, failed: [] })))
      await expectCounted(wanted, 120)
    })
  })

  describe.each(engine.engine === 'postgres' ? (['repeatable read', 'serializable'] as const) : [])(
    'at %s',
    (isolation) => {
      it('at most one of twenty is aborted of 64 whose first statement takes it, and none fails otherwise', async () => {
        const wanted = await names(1)
        await using own = await process(10).then(closed)
        const { aborted, failed } = await addUp(own, { transactions: 64, names: [wanted], isolation })
        expect(failed).toEqual([])
        expect(aborted).toBeLessThanOrEqual(64 / 20)
        await expectCounted(wanted, 64 - aborted)
      })
    },
  )

  describe.each(engine.isolations)('at %s', (isolation) => {
    it("the engine finds a circle of it and a row of the caller's", async () => {
      const [name] = await names(1)
      const row = await names(1)
      await using own = await process(4).then(closed)
      const { connected, locks } = own
      const arrived = new Set<string>()
      const both = async (who: string, other: string) => {
        arrived.add(who)
        await expect.poll(() => arrived.has(other), { timeout: 20_000 }).toBe(true)
      }
      const take = (tx: unknown) => locks.within(tx).acquire(name!)
      const write = (tx: unknown) => connected.sql(`update counters set value = 1 where name = '${row[0]}'`, tx)
      const outcomes = await Promise.allSettled([
        connected.transaction(async (tx) => {
          await write(tx)
          await both('who has the row', 'who has the lock')
          await take(tx)
        }, isolation),
        connected.transaction(async (tx) => {
          await take(tx)
          await both('who has the lock', 'who has the row')
          await write(tx)
        }, isolation),
      ])
      const reasons = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []))
      expect(reasons).toHaveLength(1)
      expect(isTransactionAborted(reasons[0]), String(reasons[0])).toBe(true)
      expect(await (await locks.acquire(name!, { wait: '5s' })).release()).toBe(true)
    })
  })
})

/** Closes its instance at the end of a block. */
function closed<Own extends { readonly locks: { close(): Promise<void> } }>(own: Own): Own & AsyncDisposable {
  return { ...own, [Symbol.asyncDispose]: () => own.locks.close() }
}
