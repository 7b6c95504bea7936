import { describe, expect, it, type TestContext, vi } from 'vitest'
import { createLocks, type Lease, LockError, type Locks } from '../../src/index.ts'
import { engines, freshName, type TestEngine } from '../engines.ts'

const STATEMENT_TIMEOUT_MS = 1000
/** A call that takes longer than that hangs. */
const BOUND_MS = 20_000

async function setUp(engine: TestEngine, poolSize: number, { onTestFinished }: TestContext) {
  const open = await engine.open()
  const connected = await open.connect({ poolSize })
  const locks = createLocks(connected.adapter, { statementTimeout: STATEMENT_TIMEOUT_MS })
  onTestFinished(async () => {
    await locks.close()
    await open.close()
  })
  return { connected, locks, others: await open.locks() }
}

describe.each(engines())('on $name', { concurrent: true, timeout: 60_000 }, (engine) => {
  it('one connection is enough to acquire, renew, guard, extend and release', async (context) => {
    const { connected, locks } = await setUp(engine, 1, context)
    let renewals = 0
    locks.on(({ type }) => type === 'renewed' && renewals++)
    const leases = await Promise.all([locks.acquire(freshName(), { ttl: '6s' }), locks.acquire(freshName())])
    for (const lease of leases) await connected.transaction(async (tx) => lease.guard(tx))
    await vi.waitUntil(() => renewals > 0, { timeout: 20_000 })
    await Promise.all(leases.map((lease) => lease.extend('1m')))
    expect(await Promise.all(leases.map((lease) => lease.release()))).toEqual([true, true])
  })

  it('one connection is enough for many waiters', async (context) => {
    const { locks } = await setUp(engine, 1, context)
    const name = freshName()
    let running = 0
    const turns = Array.from({ length: 20 }, () =>
      locks.run(name, { wait: '20s' }, () => {
        expect(++running).toBe(1)
        running--
      }),
    )
    await Promise.all(turns)
  })

  describe.each([1, 5])('with %i connections', (poolSize) => {
    const inside = async (context: TestContext, call: (lease: Lease<unknown>) => Promise<unknown>) => {
      const { connected, locks, others } = await setUp(engine, poolSize, context)
      const lease = await locks.acquire(freshName())
      const started = performance.now()
      const outcome = await connected.transaction(async (tx) => {
        await lease.guard(tx)
        return call(lease).catch((error: unknown) => error)
      })
      expect(performance.now() - started).toBeLessThan(BOUND_MS)
      return { outcome, lease, others }
    }

    it('a release awaited inside the transaction that its lease guards works or says what to do', async (context) => {
      const { outcome, lease, others } = await inside(context, (lease) => lease.release())
      if (outcome !== true) expectAdvice(outcome)
      // As the advice is: after the transaction.
      expect(await lease.release()).toBe(true)
      await expectFree(others, lease.name)
    })

    it('an extend awaited inside the transaction that its lease guards works or says what to do', async (context) => {
      const { outcome, lease, others } = await inside(context, (lease) => lease.extend('1m'))
      if (outcome !== undefined) expectAdvice(outcome)
      await lease.extend('1m')
      expect(await lease.release()).toBe(true)
      await expectFree(others, lease.name)
    })
  })
})

function expectAdvice(outcome: unknown): void {
  expect(outcome).toBeInstanceOf(LockError)
  expect(outcome).toMatchObject({
    code: expect.stringMatching(/^(LOCK_TIMEOUT|DATABASE)$/),
    message: expect.stringContaining('transaction'),
  })
}

async function expectFree(locks: Locks<unknown>, name: string): Promise<void> {
  const lease = await locks.acquire(name, { wait: '5s' })
  await lease.release()
}
