import { AsyncResource } from 'node:async_hooks'
import { queryObjects, setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import { describe, expect, it, vi } from 'vitest'
import { fromMemory, MemoryDatabase } from '../../src/adapters/memory.ts'
import { RunHold } from '../../src/api/reentry.ts'
import { createLocks, type Lease, LockError, type LockEvent, type Locks } from '../../src/index.ts'

const open = (database = new MemoryDatabase()) => createLocks(fromMemory(database), { ttl: '1m', wait: '30s' })

const codeOf = (call: Promise<unknown>) =>
  call.then(
    () => 'served',
    (error: unknown) => (error instanceof LockError ? error.code : error),
  )

describe('what a run holds', () => {
  it('is known to timers and resources made by its body, for as long as it holds it', async () => {
    await using locks = open()
    const resources: AsyncResource[] = []
    const later = () => new Promise<unknown>((resolve) => setTimeout(() => resolve(codeOf(locks.acquire('job'))), 1))
    await locks.run('job', {}, async () => {
      resources.push(new AsyncResource('work'))
      expect(await later()).toBe('DEADLOCK')
    })
    const lease = resources[0]!.runInAsyncScope(() => locks.acquire('job'))
    expect((await lease).isHeld()).toBe(true)
  })

  it('is not known to what began before, nor to the caller when it is over', async () => {
    await using locks = open()
    const outside = new AsyncResource('work')
    let waiting: Promise<Lease<unknown>> | undefined
    await locks.run('job', {}, () => {
      waiting = outside.runInAsyncScope(() => locks.acquire('job'))
    })
    await (await waiting)?.release()
    expect(await codeOf(locks.run('job', {}, () => undefined))).toBe('served')
  })

  it('is not mixed up with what another instance holds, whatever the database', async () => {
    await using locks = open()
    await using elsewhere = open()
    await locks.run('job', {}, (lease) =>
      elsewhere.run('job', {}, async (other) => {
        expect(other).not.toBe(lease)
        await locks.run('job', { reenter: true }, (same) => expect(same).toBe(lease))
        await elsewhere.run('job', { reenter: true }, (same) => expect(same).toBe(other))
        expect(await codeOf(elsewhere.acquire('job'))).toBe('DEADLOCK')
      }),
    )
    await locks.run('job', {}, async () => {
      expect(await codeOf(elsewhere.run('job', { reenter: true }, () => undefined))).toBe('served')
      expect(await codeOf(elsewhere.acquire('another', { holding: [await locks.acquire('another')] }))).toBe('served')
    })
  })

  it('is no concern of listeners, whom no body waits for', async () => {
    await using locks = open()
    const calls: Promise<unknown>[] = []
    const waitFor = (name: string) => calls.push(codeOf(locks.run(name, { reenter: true }, ({ token }) => token)))
    locks.on(({ type }) => {
      if (type === 'forced') waitFor('job')
    })
    await locks.run('job', {}, async (lease) => {
      const other = await locks.acquire('other')
      other.signal.addEventListener('abort', () => waitFor('job'))
      await locks.forceRelease('other')
      expect(await codeOf(other.extend('1m'))).toBe('LOCK_LOST')
      expect(calls).toHaveLength(2)
      // Neither shares the lease, nor is refused.
      expect(await Promise.race([...calls, 'waiting'])).toBe('waiting')
      expect(lease.isHeld()).toBe(true)
    })
    expect(await Promise.all(calls)).toEqual(['served', 'served'])
  })

  it('is re-entered on the terms that it was taken on, if the call is in order', async () => {
    await using locks = open()
    const events: LockEvent[] = []
    const body = () => expect.unreachable('the body must not run')
    await locks.run('job', { ttl: '1m' }, async (lease) => {
      locks.on((event) => events.push(event))
      const others = { ttl: '2s', maxHold: '1s', renew: false, wait: 0, takeover: 'session' } as const
      await locks.run('job', { reenter: true, ...others }, (same) => {
        expect(same).toBe(lease)
        expect(same.toJSON().ttlMs).toBe(60_000)
        expect(same.remainingMs()).toBeGreaterThan(50_000)
      })
      const reason = new Error('stop')
      const aborted = locks.run('job', { reenter: true, signal: AbortSignal.abort(reason) }, body)
      await expect(aborted).rejects.toBe(reason)
      expect(await codeOf(locks.run('job', { reenter: true, ttl: 1 }, body))).toBe('INVALID_ARGUMENT')
      await expect(locks.run('job', { reenter: true }, () => Promise.reject(reason))).rejects.toBe(reason)
      expect(lease.isHeld()).toBe(true)
    })
    expect(events.map(({ type }) => type)).toEqual(['released'])
  })

  it('says what to do instead of waiting', async () => {
    await using locks = open()
    const lease = await locks.acquire('a "b"')
    await expect(locks.acquire('a "b"', { holding: [lease] })).rejects.toThrow(
      'the wait for the lock "a \\"b\\"" would never end: a lease in `holding` has it. Use that lease, or release it before',
    )
    await locks.run('job', {}, () => expect(locks.acquire('job')).rejects.toThrow('run(name, { reenter: true }, ...)'))
  })

  it('goes through deep recursion, in which bodies are called later as always', async () => {
    await using locks = open()
    const countDown = (depth: number): Promise<number> =>
      locks.run('job', { reenter: true }, async () => (depth === 0 ? 0 : 1 + (await countDown(depth - 1))))
    expect(await countDown(20_000)).toBe(20_000)
    expect(await locks.inspect('job')).toBeNull()
  })
})

describe('arguments', () => {
  it.each([null, 1, 'yes', {}])('reenter: %j is refused', async (reenter) => {
    await using locks = open()
    const options = { reenter: reenter as never }
    expect(await codeOf(locks.run('job', options, () => undefined))).toBe('INVALID_ARGUMENT')
    expect(await codeOf(locks.tryRun('job', options, () => undefined))).toBe('INVALID_ARGUMENT')
  })

  it.each([null, 1, 'job', {}, [null], [{}], ['job'], [{ name: 'job' }]])('holding: %j is refused', async (holding) => {
    await using locks = open()
    const options = { holding: holding as never }
    expect(await codeOf(locks.acquire('job', options))).toBe('INVALID_ARGUMENT')
    expect(await codeOf(locks.tryAcquire('job', options))).toBe('INVALID_ARGUMENT')
    expect(await locks.inspect('job')).toBeNull()
  })

  it('undefined is what was left out', async () => {
    await using locks = open()
    const nothing = { reenter: undefined, holding: undefined }
    expect(await locks.run('job', nothing, () => 1)).toBe(1)
    expect(await locks.run('job', { holding: [] }, () => 1)).toBe(1)
  })
})

describe('memory', () => {
  setFlagsFromString('--expose-gc')
  const collect: () => void = runInNewContext('gc')

  it('has no lease of a run that is over, though a resource keeps the context of its body', async () => {
    await using locks = open()
    const leases: WeakRef<object>[] = []
    const resources: AsyncResource[] = []
    for (let round = 0; round < 10; round++) {
      await locks.run('job', {}, (lease) => {
        leases.push(new WeakRef(lease))
        resources.push(new AsyncResource('a socket'))
      })
    }
    await vi.waitFor(() => {
      collect()
      expect(leases.filter((lease) => lease.deref() !== undefined)).toEqual([])
    })
    expect(resources).toHaveLength(10)
  })

  it('has no context of runs that are over, where each starts the next one', async () => {
    await using locks = open()
    const resources: AsyncResource[] = []
    /** Each by a timer of the one before. */
    const inTurn = async (left: number): Promise<void> => {
      let next: Promise<void> | undefined
      await locks.run('job', {}, () => {
        if (left === 0) resources.push(new AsyncResource('a socket'))
        else next = new Promise((resolve) => setImmediate(() => resolve(inTurn(left - 1))))
      })
      await next
    }
    await inTurn(100)
    expect(resources).toHaveLength(1)
    await vi.waitFor(() => {
      collect()
      expect(queryObjects(RunHold)).toBeLessThan(10)
    })
  })
})

/** A program of runs, some within others, some beside others. */
type Program =
  | { readonly kind: 'run'; readonly name: string; readonly options: Options; readonly body: readonly Program[] }
  | { readonly kind: 'together' | 'detached'; readonly body: readonly Program[] }
  | { readonly kind: 'try' | 'acquire'; readonly name: string }
  | { readonly kind: 'pause' | 'throw' | 'release' }

interface Options {
  readonly verb: 'run' | 'tryRun'
  readonly reenter: boolean
}

const NAMES = ['a', 'b']

const programs = fc.letrec<{ program: Program; body: readonly Program[] }>((tie) => ({
  body: fc.array(tie('program'), { minLength: 1, maxLength: 3 }),
  program: fc.oneof(
    { maxDepth: 4 },
    fc.record({ kind: fc.constantFrom('try' as const, 'acquire' as const), name: fc.constantFrom(...NAMES) }),
    fc.record({ kind: fc.constantFrom('pause' as const, 'throw' as const, 'release' as const) }),
    fc.record({ kind: fc.constantFrom('together' as const, 'detached' as const), body: tie('body') }),
    {
      weight: 6,
      arbitrary: fc.record({
        kind: fc.constant('run' as const),
        name: fc.constantFrom(...NAMES),
        options: fc.record({ verb: fc.constantFrom('run' as const, 'tryRun' as const), reenter: fc.boolean() }),
        body: tie('body'),
      }),
    },
  ),
})).body

/** A hold as the checker knows it, told by hand from each call to those within it, where the library has AsyncLocalStorage. */
interface Known {
  readonly name: string
  readonly lease: Lease<unknown>
  bodies: number
  /** Bodies that have ended, though their run has not. Whether the library knows of that nobody can say. */
  leaving: number
  released: boolean
  over: boolean
}

class Checker {
  readonly #locks: Locks<unknown>
  readonly #inside = new Map<string, Lease<unknown>>()
  readonly #underWay: Promise<void>[] = []
  readonly faults: string[] = []
  entered = 0
  refused = 0

  constructor(locks: Locks<unknown>) {
    this.#locks = locks
  }

  async run(body: readonly Program[]): Promise<void> {
    await this.#each(body, []).catch(ours)
    while (this.#underWay.length > 0) await this.#underWay.pop()
  }

  #atWork(work: Promise<void>): Promise<void> {
    this.#underWay.push(work.catch(ours))
    return work
  }

  async #each(body: readonly Program[], held: readonly Known[]): Promise<void> {
    for (const each of body) await this.#one(each, held)
  }

  async #one(program: Program, held: readonly Known[]): Promise<void> {
    switch (program.kind) {
      case 'pause':
        return new Promise((resolve) => setImmediate(resolve))
      case 'throw':
        throw new Ours()
      case 'together':
        // Its first failure leaves the others at work.
        await Promise.all(program.body.map((each) => this.#atWork(this.#one(each, held))))
        return
      case 'detached':
        this.#atWork(this.#each(program.body, held))
        return
      case 'try':
        return this.#try(program.name, held)
      case 'acquire':
        if (standing(held, program.name)) await this.#expectDeadlock(this.#locks.acquire(program.name))
        return
      case 'release':
        return this.#release(held.at(-1))
      case 'run':
        return this.#run(program, held)
    }
  }

  async #try(name: string, held: readonly Known[]): Promise<void> {
    const around = standing(held, name)
    if (around === undefined) return
    const lease = await this.#locks.tryAcquire(name)
    if (lease === null) return
    // What is detached may find that the lock is free by then.
    if (around.bodies > 0 && !around.released) this.faults.push(`${name} was granted twice`)
    await lease.release()
  }

  async #release(hold: Known | undefined): Promise<void> {
    if (hold === undefined || hold.bodies === 0 || hold.released) return
    const shared = hold.bodies > 1
    if (!shared && hold.leaving > 0) return
    if (!shared) {
      hold.released = true
      this.#inside.delete(hold.name)
    }
    const code = await codeOf(hold.lease.release())
    if (code !== (shared ? 'INVALID_ARGUMENT' : 'served')) this.faults.push(`release of ${hold.name}: ${code}`)
  }

  async #run({ name, options, body }: Program & { kind: 'run' }, held: readonly Known[]): Promise<void> {
    const around = standing(held, name)
    if (around === undefined && held.some((each) => each.name === name && !isOver(each))) return
    const { verb, reenter } = options
    const run = this.#locks[verb].bind(this.#locks) as Locks<unknown>['run']
    if (around !== undefined && !reenter) {
      const never = run(name, {}, () => {
        // As above.
        if (around.bodies > 0 && !around.released) this.faults.push(`${name} was entered without reenter`)
      })
      if (verb === 'run') await this.#expectDeadlock(never)
      else if ((await never) === undefined) this.faults.push(`tryRun of ${name} told nothing`)
      return
    }
    // Who takes locks in another order than others may wait for them in a circle. That is for others to find.
    if (around === undefined && verb === 'run' && held.some((each) => !isOver(each) && each.name >= name)) return
    let known = around
    if (known !== undefined) known.bodies++
    let lost: unknown
    try {
      await run(name, { reenter }, async (lease) => {
        if (known === undefined) {
          known = { name, lease, bodies: 1, leaving: 0, released: false, over: false }
          if (this.#inside.has(name)) this.faults.push(`${name} has two holds at once`)
          this.#inside.set(name, lease)
        } else this.entered++
        if (lease !== known.lease) this.faults.push(`${name} was entered under another lease`)
        try {
          await this.#each(body, [...held, known])
        } finally {
          if (!known.released && !lease.isHeld()) this.faults.push(`${name} was not held to the end`)
          known.leaving++
          if (--known.bodies === 0 && this.#inside.get(name) === known.lease) this.#inside.delete(name)
        }
      })
    } catch (error) {
      lost = error
    }
    if (known !== undefined) known.leaving--
    if (known?.bodies === 0) known.over = true
    if (lost instanceof LockError && known?.released !== true) this.faults.push(`${name}: ${lost.message}`)
    else if (lost !== undefined && !(lost instanceof LockError)) throw lost
  }

  async #expectDeadlock(call: Promise<unknown>): Promise<void> {
    this.refused++
    const code = await codeOf(call)
    if (code !== 'DEADLOCK') this.faults.push(`${code} instead of DEADLOCK`)
  }
}

class Ours extends Error {}

function ours(error: unknown): void {
  if (!(error instanceof Ours)) throw error
}

const isOver = ({ over, released }: Known) => over || released

function standing(held: readonly Known[], name: string): Known | undefined {
  return held.findLast((each) => each.name === name && each.bodies > 0 && !isOver(each))
}

describe('runs within runs, at random', () => {
  it('share what they hold, wait for nothing that they hold, and leave nothing held', async () => {
    let entered = 0
    let refused = 0
    await fc.assert(
      fc.asyncProperty(programs, async (program) => {
        await using locks = open()
        const checker = new Checker(locks)
        await checker.run(program)
        expect(checker.faults).toEqual([])
        expect(await locks.list()).toEqual([])
        entered += checker.entered
        refused += checker.refused
      }),
      { numRuns: 500 },
    )
    expect(entered).toBeGreaterThan(100)
    expect(refused).toBeGreaterThan(100)
  })
})
