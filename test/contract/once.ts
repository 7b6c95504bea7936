import { expect, it } from 'vitest'
import { createLocks, isTransactionAborted } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { DEFAULTS, eventually, type Subject, settled } from './harness.ts'

/** What JSON carries, and what it does not. */
const VALUES = [
  undefined,
  null,
  0,
  '',
  false,
  'né "quoted" \\ \u0000 🔒',
  [1, [null]],
  { a: { b: [] } },
  'x'.repeat(65_000),
]
const CIRCLE: { self?: unknown } = {}
CIRCLE.self = CIRCLE
const UNSTORABLE = [
  () => 1,
  1n,
  Symbol('one'),
  Number.NaN,
  { deep: [Number.POSITIVE_INFINITY] },
  new Map(),
  new Date(Number.NaN),
  Buffer.from('bytes'),
  CIRCLE,
  [undefined],
  'x'.repeat(65_536),
]

export function onceSuite(subject: Subject): void {
  const { engine } = subject
  /** Whether others can change anything while a transaction that has written is open. */
  const isConcurrent = engine.shared && engine.engine !== 'sqlite'

  it('runs once, and answers the same value to all who come later', async () => {
    const { locks, others } = subject
    for (const value of VALUES) {
      const key = freshName()
      const first = await locks.once(key, { keepFor: '30d' }, async (lease) => {
        expect(lease).toMatchObject({ name: key, mode: 'exclusive' })
        expect(lease.isHeld()).toBe(true)
        return value
      })
      expect(first).toEqual({ ran: true, value })
      for (const each of [locks, others]) {
        expect(await each.once(key, {}, () => 'again')).toEqual({ ran: false, value })
      }
      expect(await others.inspect(key)).toBeNull()
    }
  })

  it('runs in one process at a time, and those who waited get its value', async () => {
    const { locks, others } = subject
    const key = freshName()
    let runs = 0
    const body = async () => {
      runs++
      await new Promise((resolve) => setTimeout(resolve, 50))
      return { runs }
    }
    const outcomes = await Promise.all([locks, others, locks, others].map((each) => each.once(key, {}, body)))
    expect(outcomes.map(({ value }) => value)).toEqual(outcomes.map(() => ({ runs: 1 })))
    expect(outcomes.filter(({ ran }) => ran)).toHaveLength(1)
  })

  it('runs again after an error, which comes through', async () => {
    const { locks, others } = subject
    const key = freshName()
    const failure = new Error('not today')
    await expect(
      locks.once(key, {}, () => {
        throw failure
      }),
    ).rejects.toBe(failure)
    expect(await others.once(key, {}, () => 'done')).toEqual({ ran: true, value: 'done' })
  })

  it('is not done when the lease is lost, and says what the body gave', async () => {
    const { locks, others } = subject
    const key = freshName()
    const lost = locks.once(key, {}, async () => {
      expect(await others.forceRelease(key)).toBe(true)
      return 'too late'
    })
    await expect(lost).rejects.toMatchObject({ code: 'LOCK_LOST', result: 'too late' })
    expect(await others.once(key, {}, () => 'done')).toEqual({ ran: true, value: 'done' })
  })

  it('may run again after keepFor, and purge takes off what is past it', async () => {
    const { locks, others } = subject
    const key = freshName()
    expect(await locks.once(key, { keepFor: 300 }, () => 1)).toEqual({ ran: true, value: 1 })
    await eventually(async () => {
      expect(await others.once(key, { keepFor: '1h' }, () => 2)).toEqual({ ran: true, value: 2 })
    })
    await others.purge({ idleFor: 0 })
    expect(await locks.once(key, {}, () => 3)).toEqual({ ran: false, value: 2 })
  })

  it('tells of a value that cannot be kept, and is not done then', async () => {
    const { locks, others } = subject
    for (const value of UNSTORABLE) {
      const key = freshName()
      await expect(locks.once(key, {}, () => value)).rejects.toMatchObject({
        name: 'UnstorableResultError',
        code: 'INVALID_ARGUMENT',
        key,
        result: value,
      })
      expect(await others.once(key, {}, () => 1)).toEqual({ ran: true, value: 1 })
    }
  })

  it('keeps what has a toJSON method as what that gives, and leaves out what is undefined', async () => {
    const { locks } = subject
    const key = freshName()
    const at = new Date(86_400_000)
    const first = await locks.once(key, {}, () => ({ at, none: undefined }))
    expect(first).toEqual({ ran: true, value: { at: at.toJSON() } })
    expect(await locks.once(key, {}, () => null)).toEqual({ ran: false, value: { at: at.toJSON() } })
  })

  it('waits for as long as it is told, and an abort leaves nothing behind', async () => {
    const { locks, others } = subject
    const key = freshName()
    const lease = await others.acquire(key)
    await expect(locks.once(key, { wait: 0 }, () => 1)).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
    const abort = new AbortController()
    const waiting = settled(locks.once(key, { signal: abort.signal }, () => 1))
    abort.abort(new Error('enough'))
    expect(await waiting).toMatchObject({ status: 'rejected', reason: { message: 'enough' } })
    await lease.release()
    expect(await others.once(key, {}, () => 2)).toEqual({ ran: true, value: 2 })
  })

  it('refuses what is wrong before it changes anything', async () => {
    const { locks } = subject
    const key = freshName()
    const body = () => 1
    const wrong = [
      () => locks.once('', {}, body),
      () => locks.once('x'.repeat(256), {}, body),
      () => locks.once(key, { keepFor: 0 }, body),
      () => locks.once(key, { keepFor: 'soon' as never }, body),
      () => locks.once(key, { mode: 'shared' } as never, body),
      () => locks.once(key, null as never, body),
      () => locks.once(key, {}, undefined as never),
      () => locks.once(key, body as never, undefined as never),
    ]
    for (const call of wrong) await expect(call()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(await locks.inspect(key)).toBeNull()
    expect(await locks.once(key, {}, () => 2)).toEqual({ ran: true, value: 2 })
  })

  it('in a transaction is done with its commit', async () => {
    const { locks, others, connected } = subject
    for (const value of [undefined, { id: 7 }]) {
      const key = freshName()
      const run = (body: () => unknown) =>
        connected.transaction(async (tx) => locks.within(tx).once(key, { keepFor: '7d' }, body))
      await expect(
        run(() => {
          throw new Error('undo')
        }),
      ).rejects.toThrow('undo')
      expect(await run(() => value)).toEqual({ ran: true, value })
      expect(await run(() => 'again')).toEqual({ ran: false, value })
      expect(await others.once(key, {}, () => 'again')).toEqual({ ran: false, value })
    }
  })

  it('in a transaction is not done if the body rejects, though the transaction commits', async () => {
    const { locks, connected } = subject
    const key = freshName()
    const failed = await connected.transaction(async (tx) =>
      settled(locks.within(tx).once(key, {}, () => Promise.reject(new Error('not today')))),
    )
    expect(failed).toMatchObject({ reason: { message: 'not today' } })
    const unstorable = await connected.transaction(async (tx) => settled(locks.within(tx).once(key, {}, () => 1n)))
    expect(unstorable).toMatchObject({ reason: { code: 'INVALID_ARGUMENT', result: 1n } })
    const twice = await connected.transaction(async (tx) => [
      await locks.within(tx).once(key, {}, () => 1),
      await locks.within(tx).once(key, {}, () => 2),
    ])
    expect(twice).toEqual([
      { ran: true, value: 1 },
      { ran: false, value: 1 },
    ])
  })

  it('in a transaction a second call for a key at which one is, is refused at once', async () => {
    const { locks, connected } = subject
    const key = freshName()
    const nested = await connected.transaction(async (tx) => {
      const within = locks.within(tx)
      return within.once(key, {}, async () => {
        const inner = await settled(within.once(key, {}, () => 'inner'))
        const both = await settled(locks.within(tx).once(key, {}, () => 'both'))
        return [inner, both].map((each) => (each.status === 'rejected' ? each.reason.code : each.value))
      })
    })
    expect(nested).toEqual({ ran: true, value: ['DEADLOCK', 'DEADLOCK'] })
    // It is over with the first one.
    expect(await connected.transaction(async (tx) => locks.within(tx).once(key, {}, () => 1))).toMatchObject({
      ran: false,
    })
  })

  it('in a transaction runs again after keepFor', async () => {
    const { locks, connected } = subject
    const key = freshName()
    const run = (value: number) =>
      connected.transaction(async (tx) => locks.within(tx).once(key, { keepFor: 200 }, () => value))
    expect(await run(1)).toEqual({ ran: true, value: 1 })
    await eventually(async () => expect(await run(2)).toEqual({ ran: true, value: 2 }))
  })

  it.runIf(isConcurrent)('of two transactions the second waits for the first, and gets its value', async () => {
    const { locks, others, database } = subject
    const second = await database.connect()
    const theirs = createLocks(second.adapter, DEFAULTS)
    for (const isolation of ['read committed', 'repeatable read'] as const) {
      const key = freshName()
      let runs = 0
      const run = async (
        each: typeof locks,
        transaction: typeof second.transaction,
        body: () => Promise<string>,
      ): Promise<unknown> => {
        for (;;) {
          try {
            return await transaction(async (tx) => each.within(tx).once(key, {}, body), isolation)
          } catch (error) {
            if (!isTransactionAborted(error)) throw error
          }
        }
      }
      let other: Promise<unknown> | undefined
      const first = await run(locks, subject.connected.transaction, async () => {
        runs++
        other = run(theirs, second.transaction, async () => {
          runs++
          return 'second'
        })
        await new Promise((resolve) => setTimeout(resolve, 100))
        expect(runs).toBe(1)
        await expect(
          second.transaction(async (tx) => theirs.within(tx).once(key, { wait: 0 }, () => 'third'), isolation),
        ).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
        return 'first'
      })
      expect(first).toEqual({ ran: true, value: 'first' })
      expect(await other).toEqual({ ran: false, value: 'first' })
      expect(await others.once(key, {}, () => 'later')).toEqual({ ran: false, value: 'first' })
    }
  })
}
