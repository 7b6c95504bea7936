import { EventEmitter, once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { DedicatedConnection, SqlAdapter } from '../../src/adapters/adapter.ts'
import { createLocks, type Lease, type LockEvent, type Locks, LockTimeoutError } from '../../src/index.ts'
import { eventually } from '../contract/harness.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { violations } from './contest.ts'
import { deadlocksIn } from './deadlocks.ts'
import { enginesOnce, servedEngines, sharedEngines } from './one-per-engine.ts'
import { endProcesses, startWorker, type Worker } from './processes.ts'

const PROCESSES = 4
const WAITERS = 1024
/** That many of one process join at once, then of the next. */
const ROUND = 32

let open: OpenEngine
afterEach(async () => {
  await endProcesses()
  await open.close()
})

const untilWaiting = (locks: Locks<unknown>, name: string, waiters: number) =>
  vi.waitFor(async () => expect((await locks.inspect(name))?.waiters).toBe(waiters), { timeout: 30_000, interval: 5 })

describe.each(sharedEngines)(
  `${WAITERS} waiters in ${PROCESSES} processes, on $name`,
  { timeout: 180_000 },
  (engine) => {
    let workers: Worker[]
    beforeEach(async () => {
      open = await engine.open()
      // One that is killed may have the lock at that moment.
      const options = { ttl: '3s' } as const
      workers = await Promise.all(Array.from({ length: PROCESSES }, () => startWorker(engine, open.url, { options })))
    })

    /** Answers the order in which they came, as pairs of the worker and the caller's number in it. */
    async function lineUp(locks: Locks<unknown>, name: string): Promise<string[]> {
      const order: string[] = []
      for (let waiters = 0; waiters < WAITERS; waiters += ROUND) {
        const turn = waiters / ROUND
        const worker = turn % PROCESSES
        await workers[worker]!.call('lineUp', name, ROUND)
        await untilWaiting(locks, name, waiters + ROUND)
        const first = Math.floor(turn / PROCESSES) * ROUND
        for (let caller = first; caller < first + ROUND; caller++) order.push(`${worker}:${caller}`)
      }
      return order
    }

    async function served(those: readonly number[]): Promise<string[]> {
      const turns = await Promise.all(
        those.map(async (worker) =>
          (await workers[worker]!.call('endLineUp')).map(({ caller, token }) => ({
            caller: `${worker}:${caller}`,
            token,
          })),
        ),
      )
      const inOrder = turns.flat().sort((a, b) => (a.token < b.token ? -1 : 1))
      expect(new Set(inOrder.map(({ token }) => token)).size).toBe(inOrder.length)
      return inOrder.map(({ caller }) => caller)
    }

    it('are served in the order in which they came', async () => {
      const locks = await open.locks()
      const name = freshName()
      const held = await locks.acquire(name)
      const order = await lineUp(locks, name)
      await held.release()
      expect(await served([0, 1, 2, 3])).toEqual(order)
      expect(await locks.inspect(name)).toBeNull()
    })

    it('are served in that order although half of them are killed', async () => {
      const locks = await open.locks()
      const name = freshName()
      const held = await locks.acquire(name)
      const order = await lineUp(locks, name)
      await held.release()
      await vi.waitUntil(async () => (await workers[3]!.call('turns')).length >= ROUND, {
        timeout: 60_000,
        interval: 1,
      })
      await Promise.all([workers[0]!.kill(), workers[2]!.kill()])
      const living = order.filter((caller) => caller.startsWith('1:') || caller.startsWith('3:'))
      expect(await served([1, 3])).toEqual(living)
      expect(await locks.inspect(name)).toBeNull()
    })
  },
)

describe.each(enginesOnce)('on $name', { timeout: 120_000 }, (engine) => {
  beforeEach(async () => {
    open = await engine.open()
  })

  it('a lock is held, free or passed on, whatever aborts, times out and is handed over at the same moment', async () => {
    const names = [freshName(), freshName()]
    const instances = engine.shared ? [await open.locks(), await open.locks()] : [await open.locks()]
    const errors: LockEvent[] = []
    for (const locks of instances) locks.on((event) => event.type === 'error' && errors.push(event))
    const holders = new Map<string, Lease<unknown>>()
    const ends = { served: 0, timedOut: 0, aborted: 0 }
    const isOver = () => Object.values(ends).every((count) => count > 30)
    const caller = async (index: number) => {
      while (!isOver()) {
        const name = names[index % names.length]!
        const controller = new AbortController()
        const abort = setTimeout(() => controller.abort('enough'), Math.random() * 30)
        try {
          const lease = await instances[index % instances.length]!.acquire(name, {
            wait: Math.ceil(Math.random() * 30),
            signal: controller.signal,
          })
          expect(holders.get(name)?.isHeld() ?? false).toBe(false)
          holders.set(name, lease)
          if (Math.random() < 0.5) await sleep(Math.random() * 4)
          holders.delete(name)
          await lease.release()
          ends.served++
        } catch (error) {
          if (error === 'enough') ends.aborted++
          else if (error instanceof LockTimeoutError) ends.timedOut++
          else throw error
        } finally {
          clearTimeout(abort)
        }
      }
    }
    await Promise.all(Array.from({ length: 24 }, (_, index) => caller(index)))
    for (const name of names) {
      await vi.waitFor(async () => expect(await instances[0]!.inspect(name)).toBeNull(), { timeout: 5000 })
      await (await instances[0]!.acquire(name, { wait: '3s' })).release()
    }
    expect(errors).toEqual([])
  })

  it('refuses more waiters than maxWaiters, and lets the others go on', async () => {
    const locks = await open.locks({ maxWaiters: 3 })
    const name = freshName()
    const held = await locks.acquire(name)
    const waiting = [1, 2, 3].map(() => locks.acquire(name).then((lease) => lease.release()))
    await untilWaiting(locks, name, 3)
    await expect(locks.acquire(name)).rejects.toMatchObject({ name: 'QueueFullError', code: 'QUEUE_FULL', lock: name })
    await held.release()
    expect(await Promise.all(waiting)).toEqual([true, true, true])
  })

  it('refuses no more of those who come at once than have to be', async () => {
    const locks = await open.locks({ maxWaiters: 3 })
    const name = freshName()
    const held = await locks.acquire(name)
    const waiting = Array.from({ length: 9 }, () => locks.acquire(name).then((lease) => lease.release()))
    const refused = waiting.map((wait) =>
      wait.then(
        () => undefined,
        (error: unknown) => error,
      ),
    )
    await untilWaiting(locks, name, 3)
    await vi.waitFor(async () => {
      const settled = await Promise.all(refused.map((each) => Promise.race([each, 'waits'])))
      expect(settled.filter((each) => each !== 'waits')).toHaveLength(6)
    })
    await held.release()
    const errors = (await Promise.all(refused)).filter((error) => error !== undefined)
    expect(errors).toHaveLength(6)
    for (const error of errors) expect(error).toMatchObject({ code: 'QUEUE_FULL', lock: name })
  })
})

describe.each(servedEngines)('on $name', { timeout: 120_000 }, (engine) => {
  beforeEach(async () => {
    open = await engine.open()
  })

  it('batches of 8 processes over the same names deadlock never, err never, and fail only whom they concern', async () => {
    const names = Array.from({ length: 60 }, freshName)
    const [locked, broken] = [names.length, names.length + 1]
    const all = [...names, freshName(), freshName()]
    const locks = await open.locks()
    for (const name of all) await (await locks.acquire(name)).release()
    // The next token would be too big for its column.
    await open.connected.sql(`update rowlock_locks set token = 9223372036854775807 where name = '${all[broken]}'`)
    const user = await open.connect()
    const told = new EventEmitter()
    const locking = once(told, 'locked')
    const longTransaction = user.transaction(async (tx) => {
      await user.sql(`update rowlock_locks set holder = 'a user' where name = '${all[locked]}'`, tx)
      const unlocking = once(told, 'unlock')
      told.emit('locked')
      await unlocking
    })
    await locking
    const workers = await Promise.all(Array.from({ length: 8 }, () => startWorker(engine, open.url)))
    await Promise.all(workers.map((worker) => worker.call('startBustle', all, 16)))
    // For some seconds, and until each process has met the broken one, and some process each other.
    await sleep(3000)
    await eventually(async () => {
      const met = await Promise.all(workers.map((worker) => worker.call('bustleMet')))
      for (const each of met) expect(each).toContain(broken)
      expect(met.flat()).toEqual(expect.arrayContaining([...names.keys()]))
    })
    const bustles = await Promise.all(workers.map((worker) => worker.call('stopBustle')))
    told.emit('unlock')
    await longTransaction

    for (const index of names.keys()) {
      const claims = bustles.map((bustle) => ({
        claims: [...bustle.claims[index]!],
        tokens: [],
        evictions: [],
        abandoned: 0,
        purged: 0,
        takeovers: 0,
      }))
      expect(claims.flatMap((report) => report.claims).length).toBeGreaterThan(0)
      expect(violations(claims)).toEqual([])
    }
    const tokens = bustles.map((bustle) => bustle.tokens.length)
    expect(Math.min(...tokens)).toBeGreaterThan(0)
    expect(bustles.flatMap((bustle) => bustle.claims[locked]!)).toEqual([])
    for (const { failed } of bustles) expect(failed).toEqual([broken])
    expect(await deadlocksIn(open)).toBe(0)
  })

  it('who gives up while a transaction has the row locked is answered at once, and leaves the queue after it', async () => {
    await using locks = await open.locks()
    const name = freshName()
    const lease = await locks.acquire(name)
    const abort = new AbortController()
    const waiting = [
      locks.acquire(name, { signal: abort.signal }),
      locks.acquire(name, { wait: 600 }),
      locks.acquire(name, { wait: '1m' }),
    ]
    const waiters = async () => (await locks.inspect(name))?.waiters
    await expect.poll(waiters).toBe(3)
    const user = await open.connect()
    await user.transaction(async (tx) => {
      await user.sql(`update rowlock_locks set holder = 'a user' where name = '${name}'`, tx)
      abort.abort('not wanted any more')
      await expect(waiting[0]).rejects.toBe('not wanted any more')
      await expect(waiting[1]).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
      expect(await waiters()).toBe(3)
    })
    await expect.poll(waiters).toBe(1)
    expect(await lease.release()).toBe(true)
    await (await waiting[2]!).release()
  })
})

describe.each(servedEngines.filter(({ engine }) => engine === 'postgres'))(
  'on $name',
  { timeout: 120_000 },
  (engine) => {
    beforeEach(async () => {
      open = await engine.open()
    })

    const pingPong = async (instances: readonly Locks<unknown>[], name: string, handOffs: number) => {
      const turns = instances.map(async (locks) => {
        for (let turn = 0; turn < handOffs / instances.length; turn++) {
          await (await locks.acquire(name, { wait: '1m' })).release()
        }
      })
      await Promise.all(turns)
    }

    it('10,000 hand-offs are served although every notification is dropped', async () => {
      const instances = await Promise.all(
        [1, 2].map(async () => createLocks(deaf((await open.connect({ poolSize: 4 })).adapter as SqlAdapter<unknown>))),
      )
      const names = Array.from({ length: 1000 }, freshName)
      await Promise.all(names.map((name) => pingPong(instances, name, 10)))
      for (const locks of instances) await locks.close()
    })

    it('waiters are served although the session that listens for them is killed again and again', async () => {
      const instances = [await open.locks(), await open.locks()]
      let isOver = false
      let kills = 0
      const killing = (async () => {
        while (!isOver) {
          await sleep(150)
          const killed = await open.connected.sql(
            `select pg_terminate_backend(pid) from pg_locks
           where locktype = 'advisory' and objsubid = 1 and granted and pid <> pg_backend_pid()
             and database = (select oid from pg_database where datname = current_database())`,
          )
          kills += killed.length
        }
      })()
      await Promise.all(Array.from({ length: 20 }, () => pingPong(instances, freshName(), 200)))
      isOver = true
      await killing
      expect(kills).toBeGreaterThan(2)
    })
  },
)

/** Never hears a notification. */
function deaf(adapter: SqlAdapter<unknown>): SqlAdapter<unknown> {
  return {
    ...adapter,
    dedicate: async (): Promise<DedicatedConnection> => ({
      ...(await adapter.dedicate!()),
      onNotification: () => undefined,
    }),
  }
}
