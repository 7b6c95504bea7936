import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { compile, compiled } from '../compiled.ts'
import type { OpenEngine } from '../engines.ts'
import { sharedEngines } from './one-per-engine.ts'
import { endProcesses } from './processes.ts'

afterAll(endProcesses)
beforeAll(() => compile('examples'))

const engines = sharedEngines.filter(({ engine }) => engine !== 'mysql')

describe.each(engines)('examples of jobs on $name', { timeout: 120_000 }, (engine) => {
  let open: OpenEngine

  beforeEach(async () => {
    open = await engine.open()
  })
  afterEach(() => open.close())

  /** What it prints, of processes that are started at once. */
  function start(example: string, ...args: string[]) {
    const path = compiled(new URL(`../../examples/jobs/${example}.ts`, import.meta.url))
    const child = spawn(process.execPath, [path, open.url, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    let errors = ''
    child.stdout.on('data', (bytes) => {
      output += bytes
    })
    child.stderr.on('data', (bytes) => {
      errors += bytes
    })
    const ended = once(child, 'close').then(([code, signal]) => {
      if (code !== 0 && signal === null) throw new Error(`${example} ended with ${code}: ${errors}`)
      return output
    })
    return { child, ended, output: () => output }
  }
  const startMany = (count: number, example: string, ...args: string[]) =>
    Promise.all(Array.from({ length: count }, () => start(example, ...args).ended))

  it('one of ten replicas makes the tables', async () => {
    const outputs = await startMany(10, 'start-up')
    expect(outputs.filter((output) => output === 'made the tables\n')).toHaveLength(1)
    expect(outputs.filter((output) => output.startsWith('the tables were made by'))).toHaveLength(9)
    expect(await open.connected.sql('select version from versions')).toHaveLength(1)
  })

  it('each webhook is booked once', async () => {
    await startMany(1, 'start-up')
    const outputs = await startMany(3, 'webhook', 'evt_1=100', 'evt_2=50', 'evt_1=100')
    const lines = outputs.flatMap((output) => output.trim().split('\n'))
    expect(lines.filter((line) => line.endsWith('booked')).sort()).toEqual(['evt_1 booked', 'evt_2 booked'])
    const [sum] = await open.connected.sql('select sum(amount) as booked from events')
    expect(Number(sum?.booked)).toBe(150)
  })

  it('each report is made once', async () => {
    await startMany(1, 'start-up')
    await startMany(3, 'nightly-report')
    const days = (await open.connected.sql('select day from reports order by day')).map(({ day }) => String(day))
    expect(days.length).toBeGreaterThan(1)
    expect(new Set(days).size).toBe(days.length)
  })

  it('a leader goes on where the one before was killed', async () => {
    await startMany(1, 'start-up')
    const candidates = [start('leader'), start('leader')]
    const leader = await vi.waitUntil(() => candidates.find(({ output }) => output() !== ''), { timeout: 60_000 })
    const copied = async () => (await open.connected.sql('select row from copied')).map(({ row }) => Number(row))
    await vi.waitUntil(async () => (await copied()).length > 5, { timeout: 60_000, interval: 20 })
    leader!.child.kill('SIGKILL')
    await Promise.all(candidates.map(({ ended }) => ended))
    expect((await copied()).sort((a, b) => a - b)).toEqual(Array.from({ length: 30 }, (_, index) => index + 1))
  })
})
