import { getEventListeners } from 'node:events'
import { afterEach, expect, it } from 'vitest'
import { fromMemory, MemoryDatabase } from '../../src/adapters/memory.ts'
import { createLocks } from '../../src/index.ts'
import { Calls } from '../../src/process/calls.ts'
import { settled } from '../contract/harness.ts'

const CALLERS = 10_000

const warnings: Error[] = []
const onWarning = (warning: Error) => void warnings.push(warning)

afterEach(() => {
  process.off('warning', onWarning)
  warnings.length = 0
})

it('ten thousand callers with one signal make one listener, end with it, and leave none', async () => {
  process.on('warning', onWarning)
  const database = new MemoryDatabase()
  const locks = createLocks(fromMemory(database))
  const others = createLocks(fromMemory(database))
  const held = await locks.acquire('busy')
  const { signal, abort } = controlled()
  const waiting = Array.from({ length: CALLERS }, (_, index) =>
    settled((index % 2 === 0 ? locks : others).acquire('busy', { signal })),
  )
  const inTransaction = database.transaction((tx) => settled(locks.within(tx).acquire('busy', { signal })))
  expect(getEventListeners(signal, 'abort')).toHaveLength(1)
  abort()
  const outcomes = await Promise.all([...waiting, inTransaction])
  expect(
    outcomes.every(({ status, ...rest }) => status === 'rejected' && 'reason' in rest && rest.reason === 'enough'),
  ).toBe(true)
  expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  // Node warns in a tick of its own.
  await new Promise((resolve) => setImmediate(resolve))
  expect(warnings).toEqual([])
  await held.release()
  await locks.close()
  await others.close()
})

it('a signal that outlives its callers keeps none of them, and can be used again', async () => {
  const locks = createLocks(fromMemory(new MemoryDatabase()))
  const { signal, abort } = controlled()
  const first = locks.acquire('busy', { signal })
  const second = locks.acquire('busy', { signal })
  await (await first).release()
  expect(getEventListeners(signal, 'abort')).toHaveLength(1)
  await (await second).release()
  expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  await locks.acquire('busy', { signal })
  const waiting = settled(locks.acquire('busy', { signal }))
  abort()
  expect(await waiting).toMatchObject({ status: 'rejected', reason: 'enough' })
  await locks.close()
})

function controlled(): { signal: AbortSignal; abort: () => void } {
  const controller = new AbortController()
  return { signal: controller.signal, abort: () => controller.abort('enough') }
}

it('what a call that is over would have waited for may fail unheard', async () => {
  const unhandled: unknown[] = []
  const onUnhandled = (reason: unknown) => void unhandled.push(reason)
  process.on('unhandledRejection', onUnhandled)
  try {
    const call = new Calls().begin(undefined)
    call.cancel('enough')
    await expect(call.race(Promise.reject(new Error('lost')), 1000)).rejects.toBe('enough')
    // Node tells of it after the microtasks.
    await new Promise((resolve) => setImmediate(resolve))
    expect(unhandled).toEqual([])
  } finally {
    process.off('unhandledRejection', onUnhandled)
  }
})
