import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'

const root = fileURLToPath(new URL('../../', import.meta.url))

/** What a process that runs `script` prints until it ends by itself. */
async function run(script: string): Promise<string> {
  const setup = `
    import { createLocks } from './src/index.ts'
    import { fromMemory } from './src/adapters/memory.ts'
    const locks = createLocks(fromMemory(), { ttl: '1h', wait: '1h' })
    const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
  `
  const args = ['--import', 'tsx', '--input-type=module', '--eval', `${setup}\n${script}`]
  const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: root, timeout: 20_000 })
  return stdout.trim()
}

describe('a process', () => {
  it('is not kept alive by leases that it holds', async () => {
    expect(
      await run(`await locks.acquire('one'); await locks.acquire('two', { renew: false }); console.log('end')`),
    ).toBe('end')
  })

  it('is kept alive by a call that waits, until that is served', async () => {
    const script = `
      await locks.acquire('job', { ttl: 300, renew: false })
      const lease = await locks.acquire('job')
      console.log(lease.isHeld())
    `
    expect(await run(script)).toBe('true')
  })

  it('has no timers of an instance that is closed', async () => {
    const script = `
      await locks.acquire('job')
      const waiting = locks.acquire('job').catch((error) => error.code)
      await new Promise(setImmediate)
      console.log(timers() > 0)
      await locks.close()
      console.log(await waiting, timers())
    `
    expect(await run(script)).toBe('true\nINVALID_ARGUMENT 0')
  })
})
