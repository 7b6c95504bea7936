import { configDefaults, defineConfig } from 'vitest/config'

// Some tests need what only Node 24 has. All others run under the Node that native modules were installed for.
const node24Tests = '**/*.node24.test.ts'
const isNode24 = Number.parseInt(process.versions.node, 10) >= 24

// What these find depends on how soon things happen, so nothing runs beside them.
const alone = ['test/faults/**/*.test.ts', 'test/race/clocks.test.ts']

const shared = {
  globalSetup: isNode24 ? [] : ['test/global-setup.ts'],
  pool: 'forks' as const,
  // A stall of the machine that outlasts a ttl looks like a failure. Tests that pass only now are marked in the output.
  retry: process.env.CI ? 1 : 0,
  testTimeout: 30_000,
  hookTimeout: 60_000,
  // Conditions are waited for; how soon they come is for the bench to say.
  expect: { poll: { timeout: 15_000 } },
}

export default defineConfig({
  test: {
    // Servers stop here.
    teardownTimeout: 60_000,
    projects: isNode24
      ? [{ test: { ...shared, name: 'Node 24', include: [`test/${node24Tests}`] } }]
      : [
          {
            test: {
              ...shared,
              name: 'side by side',
              include: ['test/**/*.test.ts'],
              exclude: [...configDefaults.exclude, node24Tests, ...alone],
              // Files take turns in a worker, and find there what others have loaded: drivers and ORMs take longer to load than
              // most files take. So a test puts back what it changes of the process.
              isolate: false,
              // One more than CI has cores, since tests wait for half of their time.
              maxWorkers: 3,
              sequence: { groupOrder: 1 },
            },
          },
          {
            test: {
              ...shared,
              name: 'alone',
              include: alone,
              maxWorkers: 1,
              sequence: { groupOrder: 2 },
            },
          },
        ],
  },
})
