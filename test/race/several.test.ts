import { afterEach, describe, expect, it } from 'vitest'
import { createLocks, type Locks } from '../../src/index.ts'
import { connectors } from '../adapters.ts'
import { eventually, settled } from '../contract/harness.ts'
import { freshName, type OpenEngine, type TestEngine } from '../engines.ts'
import { startProxy } from '../tcp-proxy.ts'
import { servedEngines, sharedEngines } from './one-per-engine.ts'
import { endProcesses, startWorker } from './processes.ts'
import { createFences } from './subsets.ts'

const PROCESSES = 4
const CALLERS_EACH = 3
const TURNS = 25
/** A call sends so many requests at most, whose replies are lost in turn. */
const REQUESTS = 14

let open: OpenEngine
afterEach(async () => {
  await endProcesses()
  await open.close()
})

describe('several processes that take some of the same locks together', { timeout: 300_000 }, () => {
  it.each(sharedEngines)('never wait in a circle, exclude each other, and leave nothing, on $name', async (engine) => {
    open = await engine.open()
    const { connected } = open
    const prefix = freshName()
    const names = Array.from({ length: 6 }, (_, index) => `${prefix}:${index}`)
    await createFences(connected, names)
    // A connection to a file has one transaction at a time, and in that, no lease that one waits for can be released.
    const isFile = engine.engine === 'sqlite'
    const plan = { turns: TURNS, transactions: !isFile }
    const workers = await Promise.all(Array.from({ length: PROCESSES }, () => startWorker(engine, open.url)))
    const reports = await Promise.all(
      workers.flatMap((worker) =>
        Array.from({ length: isFile ? 1 : CALLERS_EACH }, () => worker.call('takeSubsets', names, plan)),
      ),
    )
    expect(reports.flatMap(({ outOfOrder }) => outOfOrder)).toEqual([])
    const sums = Object.fromEntries(names.map((name) => [name, 0]))
    for (const { written } of reports) for (const [name, count] of Object.entries(written)) sums[name]! += count
    const rows = await connected.sql('select name, writes from fences')
    expect(Object.fromEntries(rows.map(({ name, writes }) => [name, Number(writes)]))).toEqual(sums)
    for (const name of names) expect(sums[name]).toBeGreaterThan(0)
    // Circles of transactions would be broken by the engine: in byte order there are none.
    if (engine.engine === 'postgres') expect(reports.map(({ aborted }) => aborted)).toEqual(reports.map(() => 0))
    await expectNothingLeft(await open.locks(), names)
  })
})

describe.each(servedEngines)('replies that are lost on $name', { timeout: 120_000 }, (engine) => {
  it('while several locks are acquired, with one of them held or none, leave none behind', async () => {
    const { locks, others, cutReply, end } = await throughProxy(engine)
    for (let request = 1; request <= REQUESTS; request++) {
      for (const heldOne of [null, 0, 1, 2]) {
        const prefix = freshName()
        const names = Array.from({ length: 3 }, (_, index) => `${prefix}:${index}`)
        await (await others.acquireAll(names)).release()
        const inTheWay = heldOne === null ? null : await others.acquire(names[heldOne]!)
        cutReply(request)
        const acquiring = settled(locks.acquireAll(names, { wait: '20s' }))
        await new Promise((resolve) => setTimeout(resolve, 30))
        await inTheWay?.release()
        const outcome = await acquiring
        if (outcome.status === 'rejected') throw outcome.reason
        expect(outcome.value.isHeld()).toBe(true)
        for (const name of names) expect(await others.tryAcquire(name)).toBeNull()
        expect(await outcome.value.release()).toBe(true)
        await expectNothingLeft(others, names)
      }
    }
    await end()
  })

  it('before a caller leaves, leave none behind', async () => {
    const { locks, others, cutReply, end } = await throughProxy(engine)
    for (let request = 1; request <= REQUESTS; request++) {
      const prefix = freshName()
      const names = Array.from({ length: 3 }, (_, index) => `${prefix}:${index}`)
      const inTheWay = await others.acquire(names[request % 3]!)
      cutReply(request)
      const caller = new AbortController()
      const acquiring = settled(locks.acquireAll(names, { signal: caller.signal }))
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 40))
      const releasing = inTheWay.release()
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 5))
      caller.abort('left')
      const outcome = await acquiring
      await releasing
      if (outcome.status === 'fulfilled') await outcome.value.release()
      else expect(outcome.reason).toBe('left')
      await expectNothingLeft(others, names)
    }
    await end()
  })
})

async function throughProxy(engine: TestEngine) {
  open = await engine.open()
  const proxy = await startProxy(open.url)
  const connected = await connectors[engine.connector](proxy.through(open.url) as never)
  // Longer than any test waits: what is left behind does not run out meanwhile.
  const locks = createLocks(connected.adapter, { ttl: '10m' })
  const others = await open.locks({ ttl: '10m' })
  await (await locks.acquire(freshName())).release()
  return {
    locks,
    others,
    /** To the request of this number, counted from now. */
    cutReply(request: number) {
      let left = request
      proxy.cutReplies({ times: 1, after: (text) => text.includes('rowlock_') && --left === 0 })
    },
    async end() {
      proxy.restore()
      await locks.close()
      await connected.close()
      await proxy.close()
    },
  }
}

/** Nobody has one of them, nor waits for it. */
async function expectNothingLeft(locks: Locks<unknown>, names: readonly string[]): Promise<void> {
  await eventually(async () => {
    const leases = await locks.tryAcquireAll(names)
    expect(leases).not.toBeNull()
    for (const name of names) expect((await locks.inspect(name))?.waiters).toBe(0)
    await leases!.release()
  })
}
