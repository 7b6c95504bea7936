import { getEventListeners } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import type { SqlAdapter } from '../../src/adapters/adapter.ts'
import { createLocks, type Locks } from '../../src/index.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { routed } from '../statements.ts'
import { enginesOnce, sharedEngines } from './one-per-engine.ts'
import { endProcesses, startScript } from './processes.ts'

const SCRIPT = 'lifecycle-script.ts'

afterAll(endProcesses)

// What keeps a process alive is the driver, so one server of each kind will do.
const drivers = sharedEngines.filter(({ server }) => server?.name !== 'postgres15' && server?.name !== 'mariadb')

describe.each(drivers)('on $name', { concurrent: true, timeout: 90_000 }, (engine) => {
  let open: OpenEngine
  let others: Locks<unknown>

  beforeAll(async () => {
    open = await engine.open()
    others = await open.locks()
  })

  afterAll(() => open.close())

  const start = (scenario: string, name: string) => startScript(SCRIPT, scenario, engine.connector, open.url, name)

  it('a process that closes on SIGTERM frees its locks at once, and ends by itself', async () => {
    const name = freshName()
    const script = start('close on SIGTERM', name)
    await script.untilLine('held')
    expect(await others.tryAcquire(name)).toBe(null)
    script.signal('SIGTERM')
    expect(await script.ended).toBe(0)
    expect(await others.tryAcquire(name)).not.toBe(null)
    expect(script.errors()).toBe('')
  })

  it('the lock of a process that dies of SIGTERM becomes free after its ttl', async () => {
    const name = freshName()
    const script = start('die on SIGTERM', name)
    await script.untilLine('held')
    script.signal('SIGTERM')
    expect(await script.ended).toBe('SIGTERM')
    expect(await others.tryAcquire(name)).toBe(null)
    expect(await others.acquire(name, { wait: '15s' })).toBeDefined()
  })

  it('a process that forgets a lease and has nothing else to do ends by itself, and the lock becomes free', async () => {
    const name = freshName()
    const script = start('forget the lease', name)
    await script.untilLine('held')
    expect(await script.ended).toBe(0)
    expect(await others.acquire(name, { wait: '15s' })).toBeDefined()
    expect(script.errors()).toBe('')
  })

  it.runIf(engine.sessions && engine.engine === 'postgres')(
    'so does one that forgets a lease that lives by its session, and its lock is free at once',
    async () => {
      const name = freshName()
      const script = start('forget the lease that lives by a session', name)
      await script.untilLine('held')
      expect(await script.ended).toBe(0)
      expect(await others.acquire(name, { wait: '15s' })).toBeDefined()
      expect(script.errors()).toBe('')
    },
  )

  it('after close nothing keeps a process alive, and waiters have been told', async () => {
    const name = freshName()
    const script = start('close', name)
    await script.untilLine('the waiter got INVALID_ARGUMENT')
    await script.untilLine('closed')
    expect(await script.ended).toBe(0)
    expect(await others.tryAcquire(name)).not.toBe(null)
    expect(script.errors()).toBe('')
  })
})

const withSql = enginesOnce.filter(({ engine }) => engine !== 'memory')

it.each(withSql)('no statement is sent after close, and no listener stays on a signal, on $name', async (engine) => {
  const open = await engine.open()
  let statements = 0
  const adapter = open.connected.adapter as SqlAdapter<unknown>
  const counted = routed(adapter, (_, forward) => {
    statements++
    return forward()
  })
  const locks = createLocks(counted, { ttl: 300 })
  const { signal } = new AbortController()
  const name = freshName()
  const lease = await locks.acquire(name, { signal })
  const waiting = locks.acquire(name, { signal }).catch(() => undefined)
  const before = statements
  await vi.waitUntil(() => statements > before + 3, { timeout: 10_000 })
  await locks.close()
  await waiting
  const sent = statements
  await sleep(500)
  expect(statements).toBe(sent)
  expect(getEventListeners(signal, 'abort')).toEqual([])
  expect(lease.isHeld()).toBe(false)
  expect(lease.signal.aborted).toBe(true)
  await open.close()
})
